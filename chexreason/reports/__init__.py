"""Tables, figures and pages made from predictions and logs alone."""
