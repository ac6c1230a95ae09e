"""The application of the shop's coordinators and clients: the steps' Celery app and the sagas beside it."""

import os

from demo_shop.food import food
from demo_shop.loan import loan
from demo_shop.ride import ride
from demo_shop.sagas import checkout, express
from tasks import app

app.conf.saga_lease_seconds = float(os.environ.get("SHOP_LEASE_SECONDS", "10"))

__all__ = ["app", "checkout", "express", "food", "loan", "ride"]
