"""How samples are judged in a feature space: torch-fidelity's metrics, density and coverage."""
