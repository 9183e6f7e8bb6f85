"""What runs inside the containers beside the programs themselves."""
