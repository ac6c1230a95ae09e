"""All SQL of the engine: one function a statement, or a transaction. It decides nothing and knows no user code."""
