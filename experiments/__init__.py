"""The commands: generate, benchmark, calibrate, plan, train and what is behind them."""
