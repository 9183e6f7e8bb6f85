"""When drift is reported, how long predictions are kept, and where alerts go."""

from pydantic import BaseModel, Field, SecretStr


class MonitoringSettings(BaseModel):
    """When drift is reported, how long predictions are kept, and where alerts go."""

    monitor_schedule: str = "*/15 * * * *"
    monitor_window_hours: float = Field(24.0, gt=0)
    monitor_min_predictions: int = Field(200, ge=1)
    drift_threshold: float = Field(0.25, gt=0, description="Population stability index that asks for retraining.")
    feedback_min_labels: int = Field(
        20, ge=1, description="Feedback labels gathered into one drop; a correction taken back waits for no others."
    )
    feedback_votes_a_minute: int = Field(
        30, ge=1, description="Votes of one key with the role `annotate`; those beyond are only proposals."
    )
    feedback_most_waiting: int = Field(
        1000, ge=1, description="Opinions of one key on predictions that are not in the log yet; more are refused."
    )
    feedback_wait_days: float = Field(7.0, gt=0, description="How long feedback waits for its prediction.")
    feedback_open_tasks: int = Field(10_000, ge=1, description="Label tasks from feedback that may be open at once.")
    feedback_declined_share: float = Field(
        0.5, gt=0, le=1, description="A key more of whose reviewed feedback was turned down is paused, with an alert."
    )
    feedback_declined_min: int = Field(10, ge=1, description="Reviewed opinions below which no key is paused.")
    retention_days: int = Field(90, ge=1, description="Of rows of the prediction log.")
    image_retention_days: int = Field(30, ge=1, description="Of its images.")

    alert_webhook: SecretStr | None = Field(None, description="URL that gets a JSON body for each alert.")
