# SPDX-License-Identifier: Apache-2.0
"""What of a card is in use, on trees as drivers and /proc have them."""

from pathlib import Path

from ovms_scaler.core.use import CardUse
from ovms_scaler.host.gpu_use import read_cards

ONE, TWO = "0000:03:00.0", "0000:04:00.0"
PID = 4711


def write(root: Path, **files: str) -> None:
    """Of the first card, below its directory."""
    for name, text in files.items():
        path = root / "sys/bus/pci/devices" / ONE / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def open_card(root: Path, descriptor: int, text: str, *, path: str = "/dev/dri/renderD128") -> None:
    """Have the process hold it open."""
    process = root / "proc" / str(PID)
    for name in ("fd", "fdinfo"):
        (process / name).mkdir(parents=True, exist_ok=True)
    (process / "fd" / str(descriptor)).symlink_to(path)
    (process / "fdinfo" / str(descriptor)).write_text(text)


def client(address: str, number: int, memory: str = "1 MiB") -> str:
    return (
        f"drm-driver:\txe\ndrm-pdev:\t{address}\ndrm-client-id:\t{number}\ndrm-resident-vram0:\t{memory}\n"
        "drm-cycles-ccs:\t10\ndrm-total-cycles-ccs:\t100\n"
    )


def test_a_card_tells_how_long_it_slept(tmp_path: Path) -> None:
    write(tmp_path, tile0__gt0__gtidle__idle_residency_ms="1500\n", power__runtime_status="active\n")
    seen = read_cards([ONE, TWO], None, tmp_path)
    assert seen.cards == {ONE: CardUse(idle_sec=(1.5,)), TWO: CardUse()}


def test_a_card_that_is_asleep_is_not_woken(tmp_path: Path) -> None:
    write(tmp_path, power__runtime_status="suspended\n", tile0__gt0__gtidle__idle_residency_ms="1500\n")
    open_card(tmp_path, 5, client(ONE, 1))
    assert read_cards([ONE], PID, tmp_path).cards == {ONE: CardUse(is_asleep=True)}


def test_a_process_that_may_be_looked_into_tells_more(tmp_path: Path) -> None:
    write(tmp_path, tile0__gt0__gtidle__idle_residency_ms="1500\n")
    open_card(tmp_path, 5, client(ONE, 1))
    open_card(tmp_path, 6, client(ONE, 1))
    open_card(tmp_path, 7, client("0000:99:00.0", 2))  # not one that it is to use
    open_card(tmp_path, 8, client(ONE, 3), path="socket:[4711]")
    seen = read_cards([ONE, TWO], PID, tmp_path).cards
    assert seen[ONE] == CardUse(idle_sec=(1.5,), busy={"ccs": (10.0, 100.0)}, memory_bytes=1 << 20)
    assert seen[TWO] == CardUse()


def test_a_descriptor_that_is_closed_meanwhile_is_left_out(tmp_path: Path) -> None:
    open_card(tmp_path, 5, client(ONE, 1))
    (tmp_path / f"proc/{PID}/fdinfo/5").unlink()
    assert read_cards([ONE], PID, tmp_path).cards == {ONE: CardUse()}
