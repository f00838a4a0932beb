"""The Drawdown server: may this customer spend this, now?"""
