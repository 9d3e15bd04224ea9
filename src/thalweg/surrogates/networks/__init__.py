"""Networks that read a structure and tell its energy: what they are (`base`), what they learn from (`data`), how (`training`).

To add one: a file here with a class derived from `EnergyNetwork`, a line in `kinds`, a row in the tables of
`tests/test_energy_networks.py`.
"""
