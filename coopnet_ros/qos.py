"""Quality of service: subscribe like a sensor, publish reliably, let the user override both."""

from __future__ import annotations

from rclpy.qos import (
    DurabilityPolicy,
    HistoryPolicy,
    QoSProfile,
    ReliabilityPolicy,
)
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.topic_endpoint_info import TopicEndpointInfo


def input_qos(reliability: str) -> QoSProfile:
    """Return the profile of camera topics: the newest message only.

    Args:
        reliability: ``best_effort`` receives from every publisher; ``reliable`` asks for lost
            packets again, and receives nothing from a best-effort publisher.
    """
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=1,
        reliability=ReliabilityPolicy[reliability.upper()],
        durability=DurabilityPolicy.VOLATILE,
    )


def output_qos() -> QoSProfile:
    """Return the profile of outputs: reliable, so that RViz and recorders of either kind match."""
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=5,
        reliability=ReliabilityPolicy.RELIABLE,
        durability=DurabilityPolicy.VOLATILE,
    )


def overridable() -> QoSOverridingOptions:
    """Return the options that declare ``qos_overrides.*`` parameters for a topic."""
    return QoSOverridingOptions.with_default_policies()


def describe_publishers(publishers: list[TopicEndpointInfo]) -> str:
    """Return a phrase such as ``1 (camera: reliable, volatile)`` for a warning."""
    details = [
        f"{endpoint.node_name}: {endpoint.qos_profile.reliability.name.lower()}, "
        f"{endpoint.qos_profile.durability.name.lower()}"
        for endpoint in publishers
    ]
    return f"{len(publishers)}" + (f" ({'; '.join(details)})" if details else "")
