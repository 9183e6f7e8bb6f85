"""When drift is reported, how long predictions are kept, and where alerts go."""

from pydantic import BaseModel, Field, SecretStr


class MonitoringSettings(BaseModel):
    """When drift is reported, how long predictions are kept, and where alerts go."""

    monitor_schedule: str = "*/15 * * * *"
    monitor_window_hours: float = Field(24.0, gt=0)
    monitor_min_predictions: int = Field(200, ge=1)
    drift_threshold: float = Field(0.25, gt=0, description="Population stability index that asks for retraining.")
    feedback_min_labels: int = Field(20, ge=1, description="Feedback labels gathered into one drop.")
    retention_days: int = Field(90, ge=1, description="Of rows of the prediction log.")
    image_retention_days: int = Field(30, ge=1, description="Of its images.")

    alert_webhook: SecretStr | None = Field(None, description="URL that gets a JSON body for each alert.")
