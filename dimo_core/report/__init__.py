"""What people look at: pages, plots, sheets and tables."""
