"""The `vllm.general_plugins` entry point: makes the connector known by its name alone.

vLLM calls it in every process it starts. It costs nothing and changes nothing until
`--kv-transfer-config` names the connector.
"""

NAME = "LlumnixConnector"
MODULE = "migration.vllm.connector"


def register() -> None:
    """Register the connector with vLLM; calling it again does nothing."""
    from vllm.distributed.kv_transfer.kv_connector.factory import KVConnectorFactory

    try:
        KVConnectorFactory.register_connector(NAME, MODULE, NAME)
    except ValueError:
        return
