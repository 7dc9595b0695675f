"""Policies played against the rewards without a model: what does a reward pay for?"""
