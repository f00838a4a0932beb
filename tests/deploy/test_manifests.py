"""compose.yaml and the Kubernetes manifests: valid by their schemas, hardened, with settings that a server takes."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import kubernetes_validate
import pytest
import yaml
from redis import Redis

import stores
from deploy.files import DEPLOY
from drawdown_server.config import Config, new_token_key
from drawdown_server.dev.valkey import ValkeyProcess
from drawdown_server.identity.startup import problems

KUBERNETES: Final = DEPLOY / "kubernetes"
COMPOSE: Final = DEPLOY / "compose.yaml"
OURS: Final = ("drawdown", "drawdown-flush", "migrate")
EXAMPLE: Final = DEPLOY / "compose.env.example"
KUBERNETES_MIN: Final = "1.31"
"""The oldest version whose schema the manifests are held against; the newest is the other."""


def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())
    return loaded


def environment_of_image() -> dict[str, str]:
    text = (DEPLOY / "image" / "Dockerfile").read_text()
    return dict(re.findall(r"(DRAWDOWN_\w+)=(\S+)", text))


def filled(environment: dict[str, str]) -> dict[str, str]:
    """With every variable of the example filled in."""
    values = dict.fromkeys(re.findall(r"^(\w+)=$", EXAMPLE.read_text(), re.MULTILINE), "x" * 24)
    values |= {name: new_token_key() for name in values if name.startswith("DRAWDOWN_")}
    return {name: re.sub(r"\$\{(\w+):\?[^}]*\}", lambda m: values[m[1]], text) for name, text in environment.items()}


def starts(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> Config:
    """The settings of a server in such an environment, which it would not refuse."""
    for name, value in (environment_of_image() | environment).items():
        monkeypatch.setenv(name, value)
    config = Config()
    assert problems(config) == []
    return config


def test_the_compose_file_is_valid() -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", COMPOSE],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_compose_mounts_is_there() -> None:
    mounted = [
        volume.split(":")[0]
        for service in compose()["services"].values()
        for volume in service.get("volumes", [])
        if volume.startswith("./")
    ]
    assert "./grafana/drawdown.json" in mounted
    assert [path for path in mounted if not (DEPLOY / path).exists()] == []


def test_grafana_looks_where_compose_puts_the_dashboard() -> None:
    (provider,) = yaml.safe_load((DEPLOY / "grafana/provisioning/dashboards/drawdown.yaml").read_text())["providers"]
    targets = [volume.split(":")[1] for volume in compose()["services"]["grafana"]["volumes"]]
    assert f"{provider['options']['path']}/drawdown.json" in targets


def test_compose_publishes_on_this_machine_alone_and_has_no_password_of_its_own() -> None:
    for name, service in compose()["services"].items():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
        for variable, value in service.get("environment", {}).items():
            if "PASSWORD" in variable or "URL" in variable or "KEY" in variable:
                assert re.search(r"\$\{\w+:\?", value), f"{name}: {variable}"
    assert set(re.findall(r"\$\{(\w+)", COMPOSE.read_text())) == set(
        re.findall(r"^(\w+)=", EXAMPLE.read_text(), re.MULTILINE)
    )


@pytest.mark.parametrize("name", OURS)
def test_containers_of_ours_are_hardened(name: str) -> None:
    service = compose()["services"][name]
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]


@pytest.mark.parametrize("name", ["drawdown", "drawdown-flush"])
def test_compose_has_settings_with_which_a_server_starts(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    config = starts(monkeypatch, filled(compose()["services"][name]["environment"]))
    grace_s = int(compose()["services"][name]["stop_grace_period"].removesuffix("s"))
    assert grace_s >= config.drain_delay_s + config.drain_grace_s + 20
    assert not config.flusher
    assert config.hold_token_keys


def test_the_health_check_of_a_flusher_asks_one_process_however_many_workers_servers_have() -> None:
    assert compose()["services"]["drawdown-flush"]["environment"]["DRAWDOWN_WORKERS"] == "1"


def resources(kind: str = "") -> list[dict[str, Any]]:
    found = [
        resource
        for path in sorted(KUBERNETES.glob("*.yaml"))
        if path.name != "kustomization.yaml"
        for resource in yaml.safe_load_all(path.read_text())
    ]
    return [resource for resource in found if kind in ("", resource["kind"])]


def pods() -> dict[str, dict[str, Any]]:
    """The pod of each workload by its name."""
    workloads = resources("Deployment") + resources("Job")
    return {workload["metadata"]["name"]: workload["spec"]["template"] for workload in workloads}


@pytest.mark.parametrize("version", [KUBERNETES_MIN, kubernetes_validate.latest_version()])
@pytest.mark.parametrize("resource", resources(), ids=lambda r: f"{r['kind']}-{r['metadata']['name']}")
def test_a_manifest_is_valid(resource: dict[str, Any], version: str) -> None:
    kubernetes_validate.validate(resource, version, strict=True)


def test_the_kustomization_has_every_manifest_but_the_example_of_secrets() -> None:
    named = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())["resources"]
    assert set(named) == {path.name for path in KUBERNETES.glob("*.yaml")} - {
        "kustomization.yaml",
        "secrets.example.yaml",
    }


@pytest.mark.parametrize("name", pods())
def test_a_pod_is_as_restricted_as_pod_security_has_it(name: str) -> None:
    spec = pods()[name]["spec"]
    assert spec["securityContext"]["runAsNonRoot"]
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False, "variables of Services look like settings"
    (container,) = spec["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container["resources"]["requests"].keys() == {"cpu", "memory"}
    assert "memory" in container["resources"]["limits"]


@pytest.mark.parametrize("name", ["drawdown", "drawdown-flush"])
def test_kubernetes_has_settings_with_which_a_server_starts(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    (settings,) = resources("ConfigMap")
    secret = next(r for r in resources("Secret") if r["metadata"]["name"] == "drawdown")["stringData"]
    keys = {variable: value or new_token_key() for variable, value in secret.items()}
    config = starts(monkeypatch, settings["data"] | keys)
    spec = pods()[name]["spec"]
    assert spec["terminationGracePeriodSeconds"] >= config.drain_delay_s + config.drain_grace_s + 20
    ports = {port["name"]: port["containerPort"] for port in spec["containers"][0]["ports"]}
    assert ports["admin"] == config.admin_port
    assert ports.get("grpc", config.grpc_port) == config.grpc_port
    (mount,) = spec["containers"][0]["volumeMounts"]
    assert config.tls_certificate is not None
    assert str(config.tls_certificate.parent) == mount["mountPath"]
    assert "subPath" not in mount


def test_only_the_migration_has_the_password_of_the_owner() -> None:
    for name, pod in pods().items():
        secrets = {
            source["secretRef"]["name"] for source in pod["spec"]["containers"][0]["envFrom"] if "secretRef" in source
        }
        assert secrets == ({"drawdown-migrator"} if name == "drawdown-migrate" else {"drawdown"})


def test_prometheus_finds_the_pods_and_calls_them_what_alerts_do() -> None:
    (job,) = yaml.safe_load((DEPLOY / "prometheus" / "kubernetes.yaml").read_text())["scrape_configs"]
    rules = job["relabel_configs"]
    kept = {rule["source_labels"][0]: rule["regex"] for rule in rules if rule.get("action") == "keep"}
    names = kept["__meta_kubernetes_pod_label_app_kubernetes_io_name"].split("|")
    port = kept["__meta_kubernetes_pod_container_port_name"]
    for name in names:
        ports = pods()[name]["spec"]["containers"][0]["ports"]
        assert port in {found["name"] for found in ports}
    scraped = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yaml").read_text())["scrape_configs"]
    assert set(names) == {found["job_name"] for found in scraped}
    assert {rule["target_label"] for rule in rules if "target_label" in rule} == {"job", "instance"}


def test_selectors_find_the_pods_that_there_are() -> None:
    labels = {name: pod["metadata"]["labels"] for name, pod in pods().items()}
    for kind in ("Service", "PodDisruptionBudget", "Deployment"):
        for resource in resources(kind):
            selector = resource["spec"]["selector"]
            wanted = selector.get("matchLabels", selector)
            assert labels[resource["metadata"]["name"]] == wanted
    (policy,) = [r for r in resources("NetworkPolicy") if r["metadata"]["name"] == "drawdown"]
    (expression,) = policy["spec"]["podSelector"]["matchExpressions"]
    assert set(expression["values"]) == {label["app.kubernetes.io/name"] for label in labels.values()}
    (scaler,) = resources("HorizontalPodAutoscaler")
    assert scaler["spec"]["scaleTargetRef"]["name"] in labels


def test_valkey_starts_with_its_configuration(data_dir: Path) -> None:
    """The file of the container, but for where this test keeps its data and its users."""
    lines = (DEPLOY / "valkey" / "valkey.conf").read_text().splitlines()
    moved = [line for line in lines if line.split(" ")[0] not in {"dir", "port", "aclfile"} and line]
    data_dir.parent.mkdir(exist_ok=True)
    extra = [*moved, *stores.with_users(data_dir.parent)]
    with ValkeyProcess(data_dir, extra=extra) as valkey, Redis.from_url(valkey.url, decode_responses=True) as client:
        for line in moved:
            name, _, value = line.partition(" ")
            if not line.startswith("#") and name != "maxmemory":
                assert client.config_get(name)[name] == value.strip('"'), line
        assert client.config_get("maxmemory")["maxmemory"] == str(2**30)
