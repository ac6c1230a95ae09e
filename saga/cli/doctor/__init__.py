"""What is unsafe about the settings of Celery, the broker, Postgres and the fleet. It advises, and sets nothing."""
