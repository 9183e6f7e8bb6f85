"""The prediction log as material for the next round: shift, live quality, feedback, housekeeping."""
