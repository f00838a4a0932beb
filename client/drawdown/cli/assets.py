"""``drawdown asset``: units of account."""

from typing import Annotated

import typer

from drawdown import SCALE_MAX, Asset
from drawdown.cli.output import first, time
from drawdown.cli.session import LIMIT_DEFAULT, Limit, Session, command, noun
from drawdown.cli.values import OVERAGE_POLICIES, Overage

app = noun("Assets: the units that wallets hold, such as USD or MODEL_TOKENS.")

AssetArgument = Annotated[str, typer.Argument(metavar="ASSET", help="Its code: capital letters, digits and _.")]


@command(app, "create")
def create(
    session: Session,
    asset: AssetArgument,
    *,
    scale: Annotated[
        int,
        typer.Option("--scale", min=0, max=SCALE_MAX, help="Decimal places: one whole is 10^scale units. Fixed."),
    ],
    name: Annotated[str, typer.Option("--name", help="A name for people.")] = "",
    overage: Annotated[
        Overage | None,
        typer.Option(
            "--overage", help="What commit does with more than was held, unless authorize says. [default: available]"
        ),
    ] = None,
) -> None:
    """Creates an asset; the same content again changes nothing."""
    created = session.client.create_asset(
        asset=asset, scale=scale, display_name=name, default_overage_policy=OVERAGE_POLICIES[overage]
    )
    _show(session, created)


@command(app, "get")
def get(session: Session, asset: AssetArgument) -> None:
    """Shows one asset."""
    _show(session, session.client.get_asset(asset=asset))


@command(app, "list")
def list_all(session: Session, *, limit: Limit = LIMIT_DEFAULT) -> None:
    """Lists assets by code."""
    assets, more = first(session.client.iter_assets(), limit)
    if session.out.as_json:
        session.out.json_list("assets", assets, more=more)
        return
    session.out.table(
        ["ASSET", ">SCALE", "NAME", "CREATED"],
        ([asset.asset, str(asset.scale), asset.display_name, time(asset.create_time)] for asset in assets),
    )
    session.out.cut(limit, more=more)


def _show(session: Session, asset: Asset) -> None:
    if session.out.as_json:
        session.out.json(asset)
        return
    session.out.facts(
        {
            "asset": asset.asset,
            "scale": str(asset.scale),
            "name": asset.display_name or "-",
            "overage": asset.default_overage_policy,
            "created": time(asset.create_time),
        }
    )
