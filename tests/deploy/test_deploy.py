"""The shipped Kubernetes manifests: valid, secure, and in agreement with the gateway's configuration inside them."""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import kubernetes_validate
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
MANIFESTS = sorted((ROOT / "deploy/kubernetes").glob("*.yaml"))
# 1.30 is the oldest in which both native sidecars and the sleep action are on by default.
KUBERNETES_VERSIONS = ("1.30", "1.36")
GATEWAY = "nexus-gateway"

Object = dict[str, Any]


def seconds(duration: str) -> float:
    """`250ms`, `5s` or `1m` in seconds."""
    number, unit = re.fullmatch(r"(\d+)(ms|s|m)", duration).groups()
    return int(number) * {"ms": 0.001, "s": 1, "m": 60}[unit]


def port_of(address: str) -> int:
    return int(address.rpartition(":")[2])


@dataclass
class Manifest:
    """One file: its objects, and the gateway's container and configuration in it."""

    path: Path

    def __post_init__(self) -> None:
        self.objects: list[Object] = [found for found in yaml.safe_load_all(self.path.read_text()) if found]
        self.pod: Object = self.only("Deployment")["spec"]["template"]["spec"]
        self.containers: list[Object] = self.pod.get("initContainers", []) + self.pod["containers"]
        self.gateway: Object = next(found for found in self.containers if found["name"] == GATEWAY)
        self.config_text: str = self.only("ConfigMap")["data"]["gateway.yaml"]
        self.config: Object = yaml.safe_load(self.config_text)
        self.addresses: list[str] = [listener["address"] for listener in self.config["listen"]]
        self.admin_port = port_of(self.config["admin"]["address"])

    def of_kind(self, kind: str) -> list[Object]:
        return [found for found in self.objects if found["kind"] == kind]

    def only(self, kind: str) -> Object:
        (found,) = self.of_kind(kind)
        return found

    def container_port(self, name_or_number: str | int) -> int:
        """A probe or Service names a port of the container; this is its number."""
        ports = {port["name"]: port["containerPort"] for port in self.gateway["ports"]}
        return ports[name_or_number] if isinstance(name_or_number, str) else name_or_number

    def mounted(self, mount_path: str) -> tuple[Object, Object]:
        """The mount of the gateway at that path and the volume behind it."""
        (mount,) = [found for found in self.gateway["volumeMounts"] if found["mountPath"] == mount_path]
        return mount, self.volume(mount)

    def volume(self, mount: Object) -> Object:
        (volume,) = [found for found in self.pod["volumes"] if found["name"] == mount["name"]]
        return volume

    def secret_mounts(self) -> list[tuple[Object, Object]]:
        """The mounts of secrets and of what Kubernetes knows, and the volumes behind them."""
        mounts = [(mount, self.volume(mount)) for mount in self.gateway["volumeMounts"]]
        return [(mount, volume) for mount, volume in mounts if volume.keys() & {"secret", "projected"}]

    def secret_files(self) -> set[str]:
        """The files below those mounts that the configuration names."""
        folders = "|".join(re.escape(mount["mountPath"]) for mount, _ in self.secret_mounts())
        return {found[0] for found in re.finditer(rf"({folders})/[\w.-]+", self.config_text)} if folders else set()

    def write_config(self, folder: Path) -> Path:
        """The configuration in a file, and in others what would be mounted for it."""
        text = self.config_text
        pair = folder / "pair"
        for file in sorted(self.secret_files(), key=len, reverse=True):
            here = folder / file.strip("/").replace("/", "-")
            if file.endswith((".crt", ".key")):
                if not pair.with_suffix(".crt").exists():
                    make_certificate(pair)
                shutil.copy(pair.with_suffix(Path(file).suffix), here)
            else:
                here.write_text("MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=\n")  # a key as well as a token
            text = text.replace(file, str(here))
        config = folder / "gateway.yaml"
        config.write_text(text)
        return config


def make_certificate(pair: Path) -> None:
    """PEM files with these suffixes: `.crt` and `.key`."""
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30"]
    command += ["-keyout", f"{pair}.key", "-out", f"{pair}.crt", "-subj", "/CN=gateway"]
    subprocess.run(command, check=True, capture_output=True, timeout=30)


@pytest.fixture(params=MANIFESTS, ids=lambda path: path.name)
def manifest(request: pytest.FixtureRequest) -> Manifest:
    return Manifest(request.param)


@pytest.fixture
def edge() -> Manifest:
    return Manifest(ROOT / "deploy/kubernetes/edge.yaml")


@pytest.fixture
def sidecar() -> Manifest:
    return Manifest(ROOT / "deploy/kubernetes/sidecar.yaml")


def test_there_are_manifests() -> None:
    assert [path.name for path in MANIFESTS] == ["edge.yaml", "sidecar.yaml"]


@pytest.mark.parametrize("version", KUBERNETES_VERSIONS)
def test_every_object_is_valid(manifest: Manifest, version: str) -> None:
    for found in manifest.objects:
        assert kubernetes_validate.validate(found, version, strict=True) == version


def test_names_are_unique(manifest: Manifest) -> None:
    names = [(found["kind"], found["metadata"]["name"]) for found in manifest.objects]
    assert len(names) == len(set(names))


def test_the_gateway_accepts_its_configuration(manifest: Manifest, tmp_path: Path) -> None:
    binary = Path(os.environ.get("NEXUS_GATEWAY_BIN", ROOT / "target/release/nexus-gateway")).resolve()
    assert binary.exists(), f"{binary} is not there: run `cargo build --release` or set NEXUS_GATEWAY_BIN"
    config = manifest.write_config(tmp_path)
    checked = subprocess.run([binary, "check", "--config", config], capture_output=True, text=True, timeout=30)
    assert checked.returncode == 0, checked.stderr

    # The check does check.
    config.write_text(config.read_text() + "no_such_key: 1\n")
    refused = subprocess.run([binary, "check", "--config", config], capture_output=True, text=True, timeout=30)
    assert refused.returncode == 78 and "no_such_key" in refused.stderr


def test_the_configuration_is_mounted_where_the_command_reads_it(manifest: Manifest) -> None:
    arguments = manifest.gateway["args"]
    assert arguments[:2] == ["run", "--config"]
    file = PurePosixPath(arguments[2])
    mount, volume = manifest.mounted(str(file.parent))
    assert mount["readOnly"] and "subPath" not in mount
    config_map = manifest.only("ConfigMap")
    assert volume["configMap"] == {"name": config_map["metadata"]["name"]}
    assert file.name in config_map["data"]


def test_only_the_state_folder_is_writable(manifest: Manifest) -> None:
    directory = manifest.config["state"]["directory"]
    mount, volume = manifest.mounted(directory)
    assert not mount.get("readOnly") and volume["emptyDir"]["sizeLimit"]
    writable = [found["mountPath"] for found in manifest.gateway["volumeMounts"] if not found.get("readOnly")]
    assert writable == [directory]


def test_probes_ask_the_admin_port(manifest: Manifest) -> None:
    assert manifest.config["admin"]["address"].startswith("0.0.0.0:"), "the kubelet asks from outside the pod"
    probes = {kind: probe["httpGet"] for kind, probe in manifest.gateway.items() if kind.endswith("Probe")}
    assert {manifest.container_port(probe["port"]) for probe in probes.values()} == {manifest.admin_port}
    paths = {kind: probe["path"] for kind, probe in probes.items()}
    assert paths | {"startupProbe": "/healthz"} == {
        "startupProbe": "/healthz",
        "readinessProbe": "/readyz",
        "livenessProbe": "/healthz",
    }


def test_declared_ports_are_those_reached_from_outside_the_pod(manifest: Manifest) -> None:
    open_ports = {port_of(address) for address in manifest.addresses if not address.startswith("127.")}
    declared = [port["containerPort"] for port in manifest.gateway["ports"]]
    assert sorted(declared) == sorted(open_ports | {manifest.admin_port})
    assert not any("hostPort" in port for port in manifest.gateway["ports"])


def test_services_carry_requests_and_not_the_admin_port(manifest: Manifest) -> None:
    labels = manifest.only("Deployment")["spec"]["template"]["metadata"]["labels"]
    for service in manifest.of_kind("Service"):
        assert service["spec"]["selector"].items() <= labels.items()
        for port in service["spec"]["ports"]:
            assert manifest.container_port(port["targetPort"]) in {port_of(address) for address in manifest.addresses}


def test_prometheus_finds_the_metrics(manifest: Manifest) -> None:
    annotations = manifest.only("Deployment")["spec"]["template"]["metadata"]["annotations"]
    assert annotations == {
        "prometheus.io/scrape": "true",
        "prometheus.io/port": str(manifest.admin_port),
        "prometheus.io/path": "/metrics",
    }


def test_the_pod_outlives_the_drain(manifest: Manifest) -> None:
    sleep = manifest.gateway.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    drain = sleep + seconds(manifest.config["server"]["grace"])
    assert drain < manifest.pod["terminationGracePeriodSeconds"]


def test_containers_have_no_rights_and_bounds(manifest: Manifest) -> None:
    pod = manifest.pod["securityContext"]
    assert pod["runAsNonRoot"] is True and pod["runAsUser"] > 0 and pod["runAsGroup"] > 0
    assert pod["seccompProfile"] == {"type": "RuntimeDefault"}
    assert manifest.pod["automountServiceAccountToken"] is False
    for container in manifest.containers:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
        assert "memory" in container["resources"]["limits"]
    assert "cpu" in manifest.gateway["resources"]["limits"]


def test_images_have_versions(manifest: Manifest) -> None:
    version = re.search(r'^version = "(.+)"$', (ROOT / "Cargo.toml").read_text(), re.MULTILINE)[1]
    assert manifest.gateway["image"].endswith(f"{GATEWAY}:{version}")
    for container in manifest.containers:
        assert re.search(r":\d[\w.-]*$", container["image"]), container["image"]


def test_selectors_select_the_pods(manifest: Manifest) -> None:
    deployment = manifest.only("Deployment")["spec"]
    labels = deployment["template"]["metadata"]["labels"]
    selectors = [deployment["selector"]]
    selectors += [budget["spec"]["selector"] for budget in manifest.of_kind("PodDisruptionBudget")]
    selectors += [spread["labelSelector"] for spread in manifest.pod.get("topologySpreadConstraints", [])]
    for selector in selectors:
        assert selector.keys() == {"matchLabels"} and selector["matchLabels"].items() <= labels.items()


def test_the_edge_survives_the_loss_of_a_pod(edge: Manifest) -> None:
    deployment = edge.only("Deployment")["spec"]
    assert deployment["replicas"] >= 2
    assert deployment["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    assert edge.only("PodDisruptionBudget")["spec"]["maxUnavailable"] < deployment["replicas"]
    assert {spread["topologyKey"] for spread in edge.pod["topologySpreadConstraints"]} >= {"kubernetes.io/hostname"}
    assert edge.of_kind("Service")


def test_every_pod_of_the_edge_takes_cancels_of_what_another_one_started(edge: Manifest) -> None:
    """With a key of its own a pod would know neither the tokens of others nor, started anew, its own."""
    assert "authentication" in edge.config, "tokens are sealed"
    (key,) = edge.config["callbacks"]["keys"]
    assert key["secret"].startswith("${file:/run/secrets/nexus-gateway/")


def test_the_edge_trusts_nobody(edge: Manifest) -> None:
    assert [listener["trust"] for listener in edge.config["listen"]] == ["untrusted"]


def test_the_edge_shows_a_certificate_that_is_renewed_in_a_secret(edge: Manifest) -> None:
    (listener,) = edge.config["listen"]
    tls = listener["tls"]
    files = {tls["certificate"], tls["key"], tls["clients"]["ca"]}
    # The names under which cert-manager and `kubectl create secret tls` put them there.
    assert {PurePosixPath(file).name for file in files} == {"tls.crt", "tls.key", "ca.crt"}
    (folder,) = {str(PurePosixPath(file).parent) for file in files}
    mount, volume = edge.mounted(folder)
    # A file mounted by subPath would never be refreshed.
    assert "secret" in volume and "subPath" not in mount
    (service,) = edge.of_kind("Service")
    assert [port["appProtocol"] for port in service["spec"]["ports"]] == ["https"]


def test_the_edge_lets_in_whom_it_knows_to_what_the_rules_say(edge: Manifest) -> None:
    assert edge.config["authentication"].keys() >= {"certificates", "jwt"}
    rules = edge.config["authorization"]["rules"]
    assert rules and all("anonymous" not in rule.get("callers", []) for rule in rules)
    assert all(rule.get("callers") or rule.get("namespaces") for rule in rules)
    assert edge.config["admin"]["token"].startswith("${file:")
    everything = edge.config["policies"][0]
    assert "match" not in everything and everything["redact"] is True
    assert {"rate_limit", "concurrency"} <= everything.keys()
    assert edge.config["log"]["audit_log"] == "stdout"


def test_secrets_are_mounted_whole_and_no_user_but_the_gateways_reads_them(manifest: Manifest) -> None:
    for mount, volume in manifest.secret_mounts():
        assert mount["readOnly"] and "subPath" not in mount
        assert volume.get("secret", volume.get("projected"))["defaultMode"] & 0o007 == 0
    named = {str(PurePosixPath(file).parent) for file in manifest.secret_files()}
    assert named == {mount["mountPath"] for mount, _ in manifest.secret_mounts()}, "each is of use"


def test_the_sidecar_is_native_and_on_loopback(sidecar: Manifest) -> None:
    assert sidecar.gateway in sidecar.pod["initContainers"]
    assert sidecar.gateway["restartPolicy"] == "Always"
    assert "startupProbe" in sidecar.gateway, "without it the application starts before the gateway listens"
    assert all(address.startswith("127.0.0.1:") for address in sidecar.addresses)
    (application,) = sidecar.pod["containers"]
    (url,) = [variable["value"] for variable in application["env"] if variable["name"] == "NEXUS_ENDPOINTS_URL"]
    assert url == f"http://{sidecar.addresses[0]}/nexus/endpoints"
