"""What is done to a trained model at inference: skipping sublayers, eliminating tokens.

`skip.py` and `eliminate.py` have the rules, an entry each, and say what a rule chooses;
`base.py` combines both. These three are free of torch. `apply.py` applies a choice to a
model, `forward.py` is the forward pass with eliminated tokens, `calibration.py` takes
the measurements that choices are made by, `costs.py` counts what an intervention saves.
"""
