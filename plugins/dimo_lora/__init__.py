"""Adapters (LoRA, by peft) on the teacher's frozen weights, as generator and as auxiliary."""
