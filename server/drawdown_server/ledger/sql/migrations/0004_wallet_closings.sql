-- Wallets that are frozen while a CloseWallet looks whether they are empty. A row goes with the close, or with anything
-- else that decides the wallet's state; one that is left behind by a server that died is found here and undone.
CREATE TABLE wallet_closings (
    tenant_id text NOT NULL,
    wallet_id text NOT NULL,
    begin_time timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, wallet_id)
);
COMMENT ON COLUMN wallet_closings.begin_time IS 'When the last call began to look.';
