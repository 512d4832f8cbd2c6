"""What YAML says, checked: recipes, protocols, tables and published numbers."""
