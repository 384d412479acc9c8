"""PEFT has QA-LoRA for GPTQ layers only; the class that computes it knows no more of them than of any linear layer."""
from peft.tuners.lora import layer, variants

_resolve = layer.Linear.resolve_lora_variant


def _with_qalora(self, *, config, **kwargs):
    return variants.QALoraLinearVariant() if config.use_qalora else _resolve(self, config=config, **kwargs)


layer.Linear.resolve_lora_variant = _with_qalora
