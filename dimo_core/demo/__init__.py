"""A local page that draws from a generator, beside its teacher: ``dimo demo``."""
