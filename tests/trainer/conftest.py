from tests.model_factories.fixtures import channel, llama, minilm, work

__all__ = ["channel", "llama", "minilm", "work"]
