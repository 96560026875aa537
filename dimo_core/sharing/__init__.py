"""What others get of a generator: its pass as a graph, a model card, and a loader that needs no dimo."""
