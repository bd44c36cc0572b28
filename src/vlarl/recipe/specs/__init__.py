"""One frozen pydantic spec per kind of part, grouped by the recipe's section."""
