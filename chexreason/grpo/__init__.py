"""Group relative policy optimisation: advantages and objective as pure functions, and the rollout that feeds them."""
