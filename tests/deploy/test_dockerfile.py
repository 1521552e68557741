"""The shipped Dockerfile, read as text: what it copies exists and builds, and the image fits the manifests."""

import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = ROOT / "deploy/Dockerfile"


@dataclass
class Instruction:
    name: str
    flags: dict[str, str]
    words: list[str]

    @classmethod
    def parse(cls, line: str) -> "Instruction":
        name, *words = line.split()
        flags = [word for word in words if word.startswith("--")] if name in ("FROM", "COPY") else []
        rest = line.split(maxsplit=1)[1]
        arguments = json.loads(rest) if rest.startswith("[") else [word for word in words if word not in flags]
        return cls(name, dict(flag[2:].split("=", 1) for flag in flags), arguments)


@dataclass
class Stage:
    image: str
    name: str | None
    instructions: list[Instruction]

    def words(self, name: str) -> list[str]:
        """The words of the last instruction of that name."""
        return [found.words for found in self.instructions if found.name == name][-1]


def stages() -> list[Stage]:
    text = "".join(line for line in DOCKERFILE.read_text().splitlines(keepends=True) if not line.startswith("#"))
    lines = [line for line in text.replace("\\\n", " ").splitlines() if line.strip()]
    found: list[Stage] = []
    for instruction in map(Instruction.parse, lines):
        if instruction.name == "FROM":
            image, *name = instruction.words
            found.append(Stage(image, name[1] if name else None, []))
        else:
            found[-1].instructions.append(instruction)
    return found


def context_sources() -> list[str]:
    """What is copied from the repository."""
    copies = [found for stage in stages() for found in stage.instructions if found.name == "COPY"]
    return [source for copy in copies if "from" not in copy.flags for source in copy.words[:-1]]


def is_sent(path: str) -> bool:
    """Whether the ignore file lets the path through; as in Docker the last rule that matches decides."""
    sent = True
    for rule in (DOCKERFILE.parent / "Dockerfile.dockerignore").read_text().splitlines():
        if rule and not rule.startswith("#") and fnmatch(path, rule.removeprefix("!")):
            sent = rule.startswith("!")
    return sent


@pytest.fixture
def context(tmp_path: Path) -> Path:
    """A folder with what the build stage has after its COPY instructions."""
    for source in context_sources():
        (tmp_path / source).parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if (ROOT / source).is_dir() else shutil.copy)(ROOT / source, tmp_path / source)
    return tmp_path


def test_base_images_are_pinned() -> None:
    build, final = stages()
    version = re.fullmatch(r"rust:(\d+)\.(\d+)\.\d+-slim-(\w+)", build.image)
    assert version, build.image
    needed = re.search(r'^rust-version = "(\d+)\.(\d+)', (ROOT / "Cargo.toml").read_text(), re.MULTILINE)
    assert (int(version[1]), int(version[2])) >= (int(needed[1]), int(needed[2]))
    # Debian 12 is bookworm: one C library in both stages.
    assert (version[3], final.image) == ("bookworm", "gcr.io/distroless/cc-debian12:nonroot")


def test_copied_files_exist_and_are_sent() -> None:
    benches = ["benches/park.rs", "benches/park_postgres.rs", "benches/seal.rs"]
    assert context_sources() == ["Cargo.toml", "Cargo.lock", "tests/support", *benches, "src"]
    for source in context_sources():
        assert (ROOT / source).exists(), source
        assert is_sent(source), f"{source} is ignored"
    assert not is_sent("target") and not is_sent(".git")


def test_copies_between_stages_name_a_stage_before() -> None:
    build, final = stages()
    copies = [found for found in final.instructions if found.name == "COPY"]
    assert copies and {copy.flags["from"] for copy in copies} == {build.name}
    assert not any(found.name == "ADD" for stage in stages() for found in stage.instructions)


def test_cargo_finds_all_it_needs_in_what_is_copied(context: Path) -> None:
    # Reads the manifest as a build does: a target whose file was not copied fails it, and so does a stale lock file.
    fetched = subprocess.run(["cargo", "fetch", "--locked"], cwd=context, capture_output=True, text=True, timeout=300)
    assert fetched.returncode == 0, fetched.stderr
    assert (context / "src/main.rs").exists() and (context / "src/lib.rs").exists()
    for source in (context / "src").rglob("*.rs"):
        for included in re.findall(r'include_(?:str|bytes)!\(\s*"([^"]+)"', source.read_text()):
            assert (source.parent / included).exists(), f"{source.relative_to(context)} includes {included}"


def test_dependencies_are_a_layer_of_their_own() -> None:
    build = stages()[0]
    names = [found.name for found in build.instructions]
    sources = next(place for place, found in enumerate(build.instructions) if found.words[:1] == ["src"])
    assert "RUN" in names[:sources], "the dependencies are built before the sources are copied"
    builds = [found for found in build.instructions if found.name == "RUN"]
    assert len(builds) == 2 and all({"cargo", "--release", "--locked"} <= set(found.words) for found in builds)


def test_the_image_runs_the_gateway_as_nobody_special() -> None:
    final = stages()[-1]
    copies = {found.words[-1] for found in final.instructions if found.name == "COPY"}
    assert final.words("ENTRYPOINT") == ["/usr/local/bin/nexus-gateway"] and set(final.words("ENTRYPOINT")) <= copies
    assert final.words("CMD") == ["run", "--config", "/etc/nexus-gateway/gateway.yaml"]
    user, group = final.words("USER")[0].split(":")
    assert int(user) > 0 and int(group) > 0
    assert final.words("EXPOSE") == ["7280", "7281"]


def test_the_state_folder_belongs_to_the_user() -> None:
    final = stages()[-1]
    (state,) = [found for found in final.instructions if found.name == "COPY" and "chown" in found.flags]
    assert state.flags["chown"] == final.words("USER")[0]
    assert final.words("VOLUME") == [state.words[-1]]
    assert final.words("ENV") == [f"STATE_DIRECTORY={state.words[-1]}"]


@pytest.mark.parametrize("name", ["edge.yaml", "sidecar.yaml"])
def test_the_manifests_use_the_user_and_the_folders_of_the_image(name: str) -> None:
    final = stages()[-1]
    objects = list(yaml.safe_load_all((ROOT / "deploy/kubernetes" / name).read_text()))
    (pod,) = [found["spec"]["template"]["spec"] for found in objects if found["kind"] == "Deployment"]
    security = pod["securityContext"]
    assert final.words("USER") == [f"{security['runAsUser']}:{security['runAsGroup']}"]
    assert security["fsGroup"] == security["runAsGroup"], "the group may write the state folder"
    containers = pod.get("initContainers", []) + pod["containers"]
    gateway = next(found for found in containers if found["name"] == "nexus-gateway")
    assert gateway["args"] == final.words("CMD")
    mounted = {mount["mountPath"] for mount in gateway["volumeMounts"]}
    folders = {folder for folder in mounted if not folder.startswith("/run/secrets/")}
    assert folders == {"/etc/nexus-gateway", *final.words("VOLUME")}
