# SPDX-License-Identifier: Apache-2.0
"""The verbs that give the agent orders."""

from pathlib import Path

import click

from ovms_scaler.ctl import output
from ovms_scaler.ctl.exits import Exit
from ovms_scaler.ctl.options import json_option, socket_option

outage_option = click.option(
    "--allow-outage", is_flag=True, help="Also when nobody serves for a while because of it."
)
wait_option = click.option("--wait", is_flag=True, help="Return when it is done, or cannot be.")
name_argument = click.argument("name", metavar="INSTANCE|POOL")


def _give(verb: str, body: dict[str, object], socket: Path, *, wait: bool, as_json: bool, said: str) -> Exit:
    from ovms_scaler.ctl import client
    from ovms_scaler.ctl.busy import busy

    with busy("waiting for the agent's answer"):
        answer = client.order(socket, verb, body)
    if wait:
        from ovms_scaler.ctl.waiting import wait_until_done

        return wait_until_done(verb, answer, lambda: client.read_status(socket), as_json=as_json)
    if as_json:
        output.show_json(answer)
    else:
        output.show(": ".join(filter(None, (said, ", ".join(map(str, answer["instances"]))))))
    return Exit.good


@click.command()
@click.option("--allow-outage", is_flag=True, help="Also make changes for which nobody serves for a while.")
@wait_option
@json_option
@socket_option
def reload(*, allow_outage: bool, wait: bool, as_json: bool, socket: Path) -> Exit:
    """Have the agent take its configuration file, if it is valid.

    A file with an error changes nothing; every error is shown. With --wait it is
    done when every instance runs as configured, and those that are no longer in
    the file are gone.

    \b
    Example:
      ovms-scalerctl reload --wait
      ovms-scalerctl reload --allow-outage
    """
    from ovms_scaler.ctl import client
    from ovms_scaler.ctl.busy import busy

    with busy("waiting for the agent to judge the configuration"):
        answer = client.reload(socket, allow_outage=allow_outage)
    if wait:
        from ovms_scaler.ctl.waiting import wait_until_done

        return wait_until_done("reload", answer, lambda: client.read_status(socket), as_json=as_json)
    if as_json:
        output.show_json(answer)
    else:
        count = answer["instances"]
        output.show(f"configuration accepted: {count} instance{'' if count == 1 else 's'}")
    return Exit.good


@click.command()
@name_argument
@outage_option
@wait_option
@json_option
@socket_option
def drain(*, name: str, allow_outage: bool, wait: bool, as_json: bool, socket: Path) -> Exit:
    """Take an instance, or those of a pool, out of use.

    It gets no new requests, finishes those it has, and is stopped; it stays so,
    also after a reboot, until undrain. Refused when no other instance serves.

    \b
    Example:
      ovms-scalerctl drain chat-numa0 --wait
    """
    body: dict[str, object] = {"name": name, "allow_outage": allow_outage}
    return _give("drain", body, socket, wait=wait, as_json=as_json, said="to be drained")


@click.command()
@name_argument
@wait_option
@json_option
@socket_option
def undrain(*, name: str, wait: bool, as_json: bool, socket: Path) -> Exit:
    """Take an instance, or those of a pool, into use again.

    \b
    Example:
      ovms-scalerctl undrain chat-numa0 --wait
    """
    return _give("undrain", {"name": name}, socket, wait=wait, as_json=as_json, said="to be started")


@click.command()
@click.argument("name", metavar="[INSTANCE|POOL]", required=False)
@click.option("--rolling", is_flag=True, help="One after the other, each when the one before serves again.")
@outage_option
@wait_option
@json_option
@socket_option
def restart(
    *, name: str | None, rolling: bool, allow_outage: bool, wait: bool, as_json: bool, socket: Path
) -> Exit:
    """Restart instances that run, all of them without a name.

    Each is drained, stopped, started and ready again. With --rolling as many at
    once as max_unavailable says, and none after one that failed. Refused when
    nobody would serve meanwhile.

    \b
    Example:
      ovms-scalerctl restart --rolling --wait
      ovms-scalerctl restart chat-numa0
    """
    body: dict[str, object] = {"allow_outage": allow_outage, "rolling": rolling}
    if name is not None:
        body["name"] = name
    return _give("restart", body, socket, wait=wait, as_json=as_json, said="to be restarted")


@click.command()
@name_argument
@wait_option
@json_option
@socket_option
def reset(*, name: str, wait: bool, as_json: bool, socket: Path) -> Exit:
    """Try again what failed or is quarantined.

    \b
    Example:
      ovms-scalerctl reset chat-numa0 --wait
    """
    return _give("reset", {"name": name}, socket, wait=wait, as_json=as_json, said="tried again")


@click.command()
@json_option
@socket_option
def pause(*, as_json: bool, socket: Path) -> Exit:
    """Have the agent observe and change nothing, until resume.

    Units go on as they are; one that ends still takes itself out of rotation.
    status shows what the agent would do.

    \b
    Example:
      ovms-scalerctl pause
    """
    return _give("pause", {}, socket, wait=False, as_json=as_json, said="paused")


@click.command()
@json_option
@socket_option
def resume(*, as_json: bool, socket: Path) -> Exit:
    """Have the agent act again after pause.

    \b
    Example:
      ovms-scalerctl resume
    """
    return _give("resume", {}, socket, wait=False, as_json=as_json, said="resumed")


VERBS = (reload, drain, undrain, restart, reset, pause, resume)
