"""Recipes, protocols, tables and published numbers: read from YAML and checked."""
