"""Plans of a decode on accelerators that need not be there: memory, collectives, costs."""
