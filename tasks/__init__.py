"""The shop's Celery application: `celery -A tasks worker` runs every step and its undo. It knows no saga."""

from tasks.app import app

__all__ = ["app"]
