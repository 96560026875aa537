"""The conformance kit: does a plugin keep what its interface promises?."""
