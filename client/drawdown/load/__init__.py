"""The load-test tool behind ``drawdown load``: README.md beside this file is its map.

Everything goes through the public ``AsyncClient``, so a run shows what a gateway would see.
"""
