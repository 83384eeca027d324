"""The commands: bad input is one line and the right exit code; good input reaches its place."""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
import tiny_models

from picert import __version__
from picert.cli import cloud_main, edge_main, main
from picert.commands.flags import (
    CLOUD_FLAGS,
    EDGE_FLAGS,
    add_flags,
    add_sampling_flags,
    cloud_config,
    edge_config,
    sampling,
)
from picert.config import CloudConfig, EdgeConfig
from picert.errors import ConfigError, InvalidRequest
from picert.messages import SamplingParams

WAIT_S = 60.0
ENTRY = "import sys; from picert.cli import {0}; sys.exit({0}())"


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of the caller's shell sets a flag."""
    for name in os.environ:
        if name.startswith("PICERT_") and name != "PICERT_HOME":
            monkeypatch.delenv(name)


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.make_gguf(tmp_path_factory.mktemp("tiny"), "qwen2", "Q8_0")


def cloud(*argv: str) -> CloudConfig:
    parser = argparse.ArgumentParser()
    parser.add_argument("--config")
    add_flags(parser, CLOUD_FLAGS)
    return cloud_config(parser.parse_args(argv))


def edge(*argv: str) -> EdgeConfig:
    parser = argparse.ArgumentParser()
    parser.add_argument("--config")
    add_flags(parser, EDGE_FLAGS)
    return edge_config(parser.parse_args(argv), default_name=lambda: "host-1")


# --- where values come from -----------------------------------------------------------------------


def test_flags_reach_their_section_of_the_config() -> None:
    config = cloud(
        *("--model", "m", "--threads", "3", "--port", "0", "--edge-bind", "tcp://127.0.0.1:9"),
        *("--max-segments", "5", "--shutdown-timeout", "2", "--no-enable-prefix-caching"),
    )
    assert (config.engine.model, config.engine.threads) == ("m", 3)
    assert (config.port, config.shutdown_timeout_s) == (0, 2.0)
    assert config.link.address == "tcp://127.0.0.1:9"
    assert config.policy.max_segments == 5
    assert not config.engine.enable_prefix_caching


def test_edge_has_one_engine_for_each_model_with_the_same_settings() -> None:
    config = edge("--model", "a", "--model", "b", "--threads", "2", "--cloud", "ipc:///x")
    assert [(e.model, e.threads) for e in config.engines] == [("a", 2), ("b", 2)]
    assert config.link.address == "ipc:///x"
    assert config.name == "host-1"


def test_spare_models_of_an_edge_have_the_settings_of_those_that_it_holds() -> None:
    flags = ("--model", "a", "--spare-model", "b", "--spare-model", "c", "--kv-tokens", "64")
    config = edge(*flags, "--model-memory-mb", "500")
    assert [(e.model, e.kv_tokens) for e in (*config.engines, *config.spares)] == [
        *(("a", 64), ("b", 64), ("c", 64)),
    ]
    assert config.model_memory_mb == 500
    assert edge("--model", "a").spares == ()


def test_flag_wins_over_variable_and_variable_over_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "cloud.toml"
    file.write_text('model = "of-file"\nport = 1\nmax-num-seqs = 7\n')
    monkeypatch.setenv("PICERT_PORT", "2")
    monkeypatch.setenv("PICERT_MAX_NUM_SEQS", "8")
    config = cloud("--config", str(file), "--port", "3")
    assert (config.engine.model, config.engine.max_num_seqs, config.port) == ("of-file", 8, 3)


def test_models_of_an_edge_may_come_from_variable_and_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "edge.toml"
    file.write_text('model = ["a", "b"]\n')
    assert [e.model for e in edge("--config", str(file)).engines] == ["a", "b"]
    monkeypatch.setenv("PICERT_MODEL", "c,d")
    assert [e.model for e in edge("--config", str(file)).engines] == ["c", "d"]


@pytest.mark.parametrize("flags", [CLOUD_FLAGS, EDGE_FLAGS])
def test_flags_have_names_of_their_own(flags: tuple[argparse.Namespace, ...]) -> None:
    names = [flag.name for flag in flags]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        ([], "--model is required"),
        (["--model", "m", "--port", "x"], "--port must be a valid integer"),
        (["--model", "m", "--port", "70000"], "--port must be less than or equal to 65535"),
        (["--model", "m", "--threads", "0"], "--threads must be greater than or equal to 1"),
        (["--model", "m", "--runner", "fast"], "--runner must be 'auto', 'native' or 'torch'"),
        (["--model", "m", "--config", "/no/such.toml"], "/no/such.toml"),
    ],
)
def test_bad_values_name_their_flag(argv: list[str], told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        cloud(*argv)
    assert told in caught.value.message


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("prot = 1", "unknown key 'prot': did you mean 'port'?"),
        ("[engine]\nmodel = 'm'", "unknown key 'engine'"),
        ("port = ", "config file"),
        ("model = 'm'\nport = []", "--port"),
    ],
)
def test_bad_files_are_named_with_what_to_do(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "cloud.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        cloud("--config", str(file))
    assert told in caught.value.message


def sampled(*argv: str) -> SamplingParams | None:
    parser = argparse.ArgumentParser()
    add_sampling_flags(parser)
    return sampling(parser.parse_args(argv))


def test_sampling_flags_become_params_and_none_of_them_none() -> None:
    assert sampled() is None
    assert sampled("--temperature", "0.5", "--seed", "3", "--stop", "a", "--stop", "b") == (
        SamplingParams(temperature=0.5, seed=3, stop=("a", "b"))
    )


@pytest.mark.parametrize("value", ["hot", "-1", "nan"])
def test_bad_sampling_values_name_their_flag(value: str) -> None:
    with pytest.raises(InvalidRequest, match="temperature"):
        sampled("--temperature", value)


# --- commands in this process ---------------------------------------------------------------------


def refused(capsys: pytest.CaptureFixture[str], code: int, expected: int) -> str:
    """The one line of an error, after a look at the rest."""
    out, err = capsys.readouterr()
    assert code == expected, err
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    return err


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["fly"], "invalid choice: 'fly'"),
        (["list", "--fast"], "--fast"),
        (["ask"], "question"),
        (["ask", "q", "--route", "best"], "--route"),
        (["ask", "q", "--url", "nowhere"], "nowhere"),
        (["ask", "q", "--top-k", "many"], "--top-k"),
        (["pull", "no-such-model"], "no-such-model"),
        (["generate", "hello"], "--model is required"),
        (["generate", "hello", "--model", "/no/such.gguf"], "/no/such.gguf"),
        (["demo", "--threads", "0"], "--threads"),
        (["demo", "--cloud-model", "no-such-model"], "no-such-model"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], argv: list[str], told: str
) -> None:
    assert told in refused(capsys, main(argv), 2)


def test_no_cloud_is_one_line_and_exit_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
    error = refused(capsys, main(["ask", "q", "--url", f"http://127.0.0.1:{port}"]), 1)
    assert "picert-cloud" in error


@pytest.mark.parametrize("command", [main, cloud_main, edge_main])
def test_version_and_help_end_well(command: object, capsys: pytest.CaptureFixture[str]) -> None:
    for flag, told in (("--version", __version__), ("--help", "usage: picert")):
        with pytest.raises(SystemExit) as caught:
            command([flag])  # type: ignore[operator]
        assert caught.value.code == 0
        assert told in capsys.readouterr().out


def test_no_command_shows_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "demo" in capsys.readouterr().out


def test_list_shows_the_catalogue(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--json"]) == 0
    models = json.loads(capsys.readouterr().out)["models"]
    assert main(["list"]) == 0
    shown = capsys.readouterr().out
    assert models
    assert all(model["name"] in shown for model in models)


def test_check_measures_this_machine(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--json", "--threads", "1"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["limits"][0]["memory_gb_per_s"] > 0
    assert found["isa"] in found["supported_isas"]
    assert set(found["runners"]) == {"native", "torch"}


@pytest.mark.parametrize("flags", [[], ["--no-stream"], ["--chat"]])
def test_generate_writes_text(
    tiny_model: Path, flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["generate", "hello", "--model", str(tiny_model), "--max-tokens", "8", "--seed", "1"]
    assert main([*argv, "--threads", "1", *flags]) == 0
    assert capsys.readouterr().out.endswith("\n")


# --- commands as processes ------------------------------------------------------------------------


def process(entry: str, *argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", ENTRY.format(entry), *argv],
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )


def one_line(done: subprocess.CompletedProcess[str], code: int) -> str:
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == code, done.stderr
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr
    return lines[0]


def test_help_loads_neither_torch_nor_the_engine() -> None:
    code = ENTRY.format("cloud_main").replace(
        "sys.exit(cloud_main())",
        "\ntry: cloud_main()\nfinally: sys.stderr.write(' '.join(sys.modules))",
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "--help"],
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=True,
    )
    assert not {"torch", "picert.engine", "fastapi", "zmq"} & set(done.stderr.split())


def test_profile_measures_a_model_and_the_cloud_refuses_that_of_another(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "profiles.json"
    assert main(["profile", "--model", str(tiny_model), "--out", str(out), "--threads", "1"]) == 0
    told = capsys.readouterr().out
    assert "decode    1 after" in told
    assert "log-probability" in told
    [(fingerprint, profile)] = json.loads(out.read_text())["models"].items()
    assert profile["threads"] == 1
    out.write_text(out.read_text().replace(fingerprint, "0" * 64))
    flags = ["--model", str(tiny_model), "--port", "0", "--profile", str(out)]
    assert cloud_main([*flags, "--edge-bind", f"ipc://{tmp_path}/edges"]) == 2
    [line] = capsys.readouterr().err.strip().splitlines()[-1:]
    assert line.startswith("error: profile")
    assert "picert profile --model" in line


def test_cloud_refuses_a_port_in_use_before_it_loads_a_model(tiny_model: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = str(taken.getsockname()[1])
        done = process("cloud_main", "--model", str(tiny_model), "--port", port)
    assert f"port {port}" in one_line(done, 2)


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--host", "0.0.0.0"], "0.0.0.0"),
        (["--port", "0", "--edge-bind", "tcp://0.0.0.0:0"], "0.0.0.0"),
    ],
)
def test_cloud_refuses_addresses_that_others_can_reach(
    tiny_model: Path, flags: list[str], told: str
) -> None:
    done = process("cloud_main", "--model", str(tiny_model), "--threads", "1", *flags)
    assert told in one_line(done, 2)


def test_edge_without_a_cloud_ends_with_the_address(tiny_model: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        address = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
    flags = ["--cloud", address, "--connect-timeout-s", "0.2", "--threads", "1"]
    done = process("edge_main", "--model", str(tiny_model), *flags)
    assert address in one_line(done, 1)


@pytest.fixture
def running_cloud(tiny_model: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    flags = ["--model", str(tiny_model), "--port", "0", "--edge-bind", "tcp://127.0.0.1:0"]
    with subprocess.Popen(
        [sys.executable, "-c", ENTRY.format("cloud_main"), *flags, "--threads", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as server:
        try:
            assert server.stdout is not None
            line = server.stdout.readline()
            assert line.startswith("picert-cloud ready: http://"), line
            yield server, line.split()[2]
        finally:
            server.kill()


def test_ask_and_stop_a_running_cloud(
    running_cloud: tuple[subprocess.Popen[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    server, url = running_cloud
    argv = ["ask", "What is it?", "--url", url, "--max-tokens", "8", "--route", "direct"]
    assert main([*argv, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["question"] == "What is it?"
    assert answer["route"] == "direct"
    assert main(argv) == 0
    assert "direct: " in capsys.readouterr().err
    server.send_signal(signal.SIGTERM)
    assert server.wait(WAIT_S) == 0


def processes_with(text: str) -> list[str]:
    """Process ids whose command line holds `text`."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if text.encode() in file.read_bytes():
                found.append(file.parent.name)
    return found


def demo(model: Path, *flags: str) -> list[str]:
    models = ["--cloud-model", str(model), "--edge-model", str(model)]
    return ["demo", "--question", "What is it?", *models, "--max-tokens", "8", *flags]


def test_demo_prints_one_object_and_leaves_no_process(tiny_model: Path) -> None:
    done = process("main", *demo(tiny_model, "--json", "--threads", "1"))
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert list(report) == [
        *("question", "answer", "route", "reasons", "segments"),
        *("cloud_prompt_tokens", "cloud_completion_tokens"),
        *("edge_prompt_tokens", "edge_completion_tokens", "first_text_ms", "total_ms", "direct"),
    ]
    assert list(report["direct"]) == ["answer", "completion_tokens", "total_ms"]
    assert not processes_with(str(tiny_model))


def test_demo_that_is_told_to_stop_leaves_no_process(tiny_model: Path) -> None:
    command = [sys.executable, "-c", ENTRY.format("main"), *demo(tiny_model)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        while not running.stdout.readline().startswith("starting edge-1"):
            assert running.poll() is None
        running.send_signal(signal.SIGTERM)
        assert running.wait(WAIT_S) == 128 + signal.SIGTERM
    assert not processes_with(str(tiny_model))


def test_demo_whose_edge_cannot_start_says_why(tiny_model: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(tiny_model.read_bytes()[:2000])
    argv = demo(tiny_model, "--edge-model", str(broken), "--threads", "1")
    assert "edge-2 ended with code 2: " in one_line(process("main", *argv), 1)
    assert not processes_with(str(tiny_model))
