"""The Celery application and its settings, read from the environment. It must not know what the steps do."""

from __future__ import annotations

import os

from celery import Celery

from saga import install

app = Celery(
    "shop",
    broker=os.environ.get("CELERY_BROKER_URL", "redis://127.0.0.1:6379/0"),
    include=[
        "tasks.billing",
        "tasks.couriers",
        "tasks.drivers",
        "tasks.kitchen",
        "tasks.lending",
        "tasks.mail",
        "tasks.payments",
        "tasks.shipping",
        "tasks.signing",
        "tasks.stock",
    ],
)
app.conf.update(
    # JSON only: a message that could carry code is refused.
    accept_content=["json"],
    task_serializer="json",
    result_serializer="json",
    task_default_queue="shop",
    # One message per child at a time: what is reserved behind a long step cannot be run by an idle node.
    worker_prefetch_multiplier=1,
    # A deploy gives running steps this long before they are cut off and attempted again elsewhere.
    worker_soft_shutdown_timeout=10.0,
    worker_send_task_events=True,
    broker_connection_retry_on_startup=True,
    broker_transport_options={
        "visibility_timeout": 3600,  # above every step's time limit
        # All tasks here are steps, and Postgres knows what is unfinished: a message that dies with its worker is sent
        # again. So kombu need not keep copies of what is delivered, which is more than half of a worker's work.
        "ack_emulation": False,
        "socket_timeout": 10,
        "socket_connect_timeout": 5,
        "socket_keepalive": True,
        "health_check_interval": 25,
    },
)

install(app, database=os.environ.get("SAGA_DATABASE_URL"))
