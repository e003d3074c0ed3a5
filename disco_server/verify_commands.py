"""The commands below `disco-server verify`: files in, one sentence out, exit code 1 where something is not as promised.

Knows options and output; what is checked is `disco_server.verification`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

# What checks takes NumPy and OpenSSL in; whoever starts the system need not wait for them. So each command imports it.

EXIT_CODES = "Exit codes: 0 all of it holds, 1 something does not or cannot be read, 2 wrong usage."

commands = typer.Typer(
    help="Checks receipts, versions and ledgers from files alone, without asking a server.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
)

Entry = Annotated[Path, typer.Option(help="Ledger entry: GET /tasks/…/versions/N.", metavar="ENTRY.json")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document: verified, step, sentence.")]


@commands.command(epilog=EXIT_CODES)
def receipt(
    receipt_file: Annotated[Path, typer.Argument(help="The receipt.", metavar="RECEIPT.json")],
    entry: Entry,
    key: Annotated[Path, typer.Option(help="GET /receipt-key.pem", metavar="KEY.pem")],
    proof: Annotated[
        Path | None, typer.Option(help="GET …/versions/N/proof?digest=…; none for what is lost.", metavar="PROOF.json")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Checks that a receipt is genuine and its contribution in the version: signature, entry, leaf, path, root."""
    from disco_server import proof_files, verification

    def check() -> str:
        return verification.verify_receipt(
            proof_files.read_receipt(receipt_file),
            verification.read_entry(proof_files.read_bytes(entry)),
            proof_files.read_proof(proof) if proof else None,
            pem=proof_files.read_bytes(key),
        )

    _tell(check, as_json=as_json)


@commands.command(epilog=EXIT_CODES)
def version(
    entry: Entry,
    base: Annotated[Path, typer.Option(help="Weights of the version before.", metavar="BASE.bin")],
    model: Annotated[Path, typer.Option(help="GET /tfjs/…/model.json", metavar="MODEL.json")],
    contributions: Annotated[
        Path, typer.Option(help="Folder with the contributions, float32, each named <SHA-256>.bin.", metavar="FOLDER")
    ],
    noise_secret: Annotated[
        Path | None,
        typer.Option(help="keys/noise.hex of the installation, for a version with noise.", metavar="NOISE.hex"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Computes a version once more from its base and its contributions, and compares every bit."""
    from disco_server import proof_files, verification

    def check() -> str:
        return verification.verify_version(
            verification.read_entry(proof_files.read_bytes(entry)),
            proof_files.read_bytes(base),
            proof_files.read_weight_specs(model),
            contributions=contributions,
            noise_secret=proof_files.read_bytes(noise_secret) if noise_secret else None,
        )

    _tell(check, as_json=as_json)


@commands.command(epilog=EXIT_CODES)
def chain(
    folder: Annotated[Path, typer.Argument(help="Folder with the entries, each as it was served.", metavar="FOLDER")],
    as_json: AsJson = False,
) -> None:
    """Checks that ledger entries follow each other without a gap or a change."""
    from disco_server import proof_files, verification

    def check() -> str:
        return verification.verify_chain([proof_files.read_bytes(path) for path in sorted(folder.glob("*.json"))])

    _tell(check, as_json=as_json)


def _tell(check: Callable[[], str], *, as_json: bool) -> None:
    from disco_server.proof_files import NotReadable
    from disco_server.verification import Failed

    step: str | None = None
    try:
        sentence = check()
    except Failed as failed:
        step, sentence = failed.step, str(failed)
    except NotReadable as missing:
        step, sentence = "files", str(missing)
    if as_json:
        typer.echo(json.dumps({"verified": step is None, "step": step, "sentence": sentence}))
    else:
        typer.echo(f"Verified. {sentence}" if step is None else f"NOT verified ({step}): {sentence}")
    if step is not None:
        raise typer.Exit(1)
