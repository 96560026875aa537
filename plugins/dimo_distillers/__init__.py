"""Distillers that learn from a teacher's trajectory: SDTT."""
