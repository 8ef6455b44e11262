"""What users of Python's `kubernetes` do: objects, patches, watches, streams, the dynamic client."""

import threading

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from kubernetes import client, config, dynamic, utils, watch
from kubernetes.client.rest import ApiException
from kubernetes.stream import portforward, stream

IMAGE = "regatta.test/busybox:1"

config.load_kube_config()
core, apps, batch = client.CoreV1Api(), client.AppsV1Api(), client.BatchV1Api()
version = client.VersionApi().get_code()
assert version.major == "1" and version.minor == "36", version


def refused(status, reason, call, *arguments, **named):
    try:
        call(*arguments, **named)
    except ApiException as error:
        assert error.status == status and f'"reason":"{reason}"' in error.body.replace(" ", ""), error
        return error
    raise AssertionError(f"{call} was not refused")


# Objects.
core.create_namespace(client.V1Namespace(metadata=client.V1ObjectMeta(name="py")))
settings = core.create_namespaced_config_map("py", {"metadata": {"name": "settings", "labels": {"a": "b"}}, "data": {"k": "v"}})
assert settings.metadata.uid and settings.metadata.creation_timestamp.year > 2000
refused(409, "AlreadyExists", core.create_namespaced_config_map, "py", {"metadata": {"name": "settings"}})
refused(422, "Invalid", core.create_namespaced_config_map, "py", {"metadata": {"name": "A_b"}})
refused(404, "NotFound", core.read_namespaced_config_map, "nothing", "py")
settings.data["k"] = "w"
changed = core.replace_namespaced_config_map("settings", "py", settings)
assert changed.data == {"k": "w"}
refused(409, "Conflict", core.replace_namespaced_config_map, "settings", "py", settings)
core.patch_namespaced_config_map("settings", "py", {"data": {"k": None, "l": "x"}})
core.patch_namespaced_config_map("settings", "py", [{"op": "add", "path": "/data/m", "value": "y"}])
assert core.read_namespaced_config_map("settings", "py").data == {"l": "x", "m": "y"}
listed = core.list_namespaced_config_map("py", label_selector="a=b", limit=1)
assert [item.metadata.name for item in listed.items] == ["settings"]
refused(400, "BadRequest", core.list_namespaced_config_map, "py", label_selector="a in b")

# A watch from a revision sees every change after it, in order.
seen = []


def follow():
    for event in watch.Watch().stream(
        core.list_namespaced_config_map, "py", resource_version=listed.metadata.resource_version, timeout_seconds=30
    ):
        if event["object"].metadata.name.startswith("n-"):
            seen.append((event["type"], event["object"].metadata.name))
        if len(seen) == 5:
            return


follower = threading.Thread(target=follow)
follower.start()
for i in range(4):
    core.create_namespaced_config_map("py", {"metadata": {"name": f"n-{i}"}})
core.delete_namespaced_config_map("n-0", "py")
follower.join(40)
assert seen == [("ADDED", f"n-{i}") for i in range(4)] + [("DELETED", "n-0")], seen
core.delete_collection_namespaced_config_map("py", field_selector="metadata.name=n-1")
refused(404, "NotFound", core.read_namespaced_config_map, "n-1", "py")

# Pods, their logs and streams.
pod = {
    "metadata": {"name": "tool"},
    "spec": {
        "terminationGracePeriodSeconds": 0,
        "containers": [
            {"name": "main", "image": IMAGE, "command": ["sh", "-c", "echo begun; httpd -f -p 80"], "ports": [{"containerPort": 80}]}
        ],
    },
}
core.create_namespaced_pod("py", pod)
for event in watch.Watch().stream(core.list_namespaced_pod, "py", field_selector="metadata.name=tool", timeout_seconds=60):
    if any(c.type == "Ready" and c.status == "True" for c in event["object"].status.conditions or []):
        break
else:
    raise AssertionError("the pod does not become ready")
assert core.read_namespaced_pod_log("tool", "py") == "begun\n"
out = stream(
    core.connect_get_namespaced_pod_exec, "tool", "py", command=["sh", "-c", "echo out; echo err >&2; exit 3"],
    stdout=True, stderr=True, stdin=False, tty=False, _preload_content=False,
)
out.run_forever(timeout=20)
assert (out.read_stdout(), out.read_stderr(), out.returncode) == ("out\n", "err\n", 3)
out = stream(
    core.connect_get_namespaced_pod_exec, "tool", "py", command=["cat"],
    stdout=True, stderr=True, stdin=True, tty=False, _preload_content=False,
)
out.write_stdin("through\n")
assert out.readline_stdout(timeout=20) == "through"
out.close()
forward = portforward(core.connect_get_namespaced_pod_portforward, "tool", "py", ports="80")
socket = forward.socket(80)
socket.setblocking(True)
socket.sendall(b"GET /nothing HTTP/1.0\r\n\r\n")
answer = b""
while chunk := socket.recv(4096):
    answer += chunk
assert b"404 Not Found" in answer, answer

# Protobuf, with types made from the published field numbers.
STRING, BYTES, MESSAGE = 9, 12, 11
file = descriptor_pb2.FileDescriptorProto(name="kubernetes.proto", package="k8s", syntax="proto3")


def message(name, *fields):
    made = file.message_type.add(name=name)
    for number, field, kind, of, repeated in fields:
        made.field.add(name=field, number=number, type=kind, type_name=of and f".k8s.{of}", label=3 if repeated else 1)


message("TypeMeta", (1, "apiVersion", STRING, None, False), (2, "kind", STRING, None, False))
message("Unknown", (1, "typeMeta", MESSAGE, "TypeMeta", False), (2, "raw", BYTES, None, False))
message("Meta", (1, "name", STRING, None, False), (3, "namespace", STRING, None, False), (5, "uid", STRING, None, False))
message("Entry", (1, "key", STRING, None, False), (2, "value", STRING, None, False))
message("ConfigMap", (1, "metadata", MESSAGE, "Meta", False), (2, "data", MESSAGE, "Entry", True))
message("ConfigMapList", (2, "items", MESSAGE, "ConfigMap", True))
pool = descriptor_pool.DescriptorPool()
pool.Add(file)
types = {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"k8s.{name}")) for name in ("Unknown", "ConfigMap", "ConfigMapList")}


def exchange(method, path, kind, body=None):
    form = "application/vnd.kubernetes.protobuf"
    if body is not None:
        body = b"k8s\0" + types["Unknown"](typeMeta={"apiVersion": "v1", "kind": "ConfigMap"}, raw=body.SerializeToString()).SerializeToString()
    answer = client.ApiClient().rest_client.pool_manager.request(
        method, client.Configuration.get_default_copy().host + path, body=body, headers={"Accept": form, "Content-Type": form}
    )
    assert answer.status < 300 and answer.headers["Content-Type"] == form and answer.data[:4] == b"k8s\0", answer.data
    envelope = types["Unknown"].FromString(answer.data[4:])
    assert envelope.typeMeta.kind == kind, envelope
    return types[kind].FromString(envelope.raw)


maps = "/api/v1/namespaces/py/configmaps"
made = exchange("POST", maps, "ConfigMap", types["ConfigMap"](metadata={"name": "wire"}, data=[{"key": "k", "value": "é"}]))
assert made.metadata.uid and made.metadata.namespace == "py" and made.data[0].value == "é", made
assert core.read_namespaced_config_map("wire", "py").data == {"k": "é"}
assert "wire" in [item.metadata.name for item in exchange("GET", maps, "ConfigMapList").items]

# Other groups, subresources, files of objects, the dynamic client.
utils.create_from_dict(
    client.ApiClient(),
    {
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": "py"},
        "spec": {
            "replicas": 0, "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": IMAGE}]}},
        },
    },
)
apps.patch_namespaced_deployment_scale("web", "py", {"spec": {"replicas": 2}})
assert apps.read_namespaced_deployment_scale("web", "py").spec.replicas == 2
assert apps.read_namespaced_deployment("web", "py").spec.replicas == 2
apps.delete_namespaced_deployment("web", "py", propagation_policy="Foreground")
batch.create_namespaced_cron_job(
    "py",
    client.V1CronJob(
        metadata=client.V1ObjectMeta(name="tick"),
        spec=client.V1CronJobSpec(
            schedule="0 0 1 1 *",
            job_template=client.V1JobTemplateSpec(
                spec=client.V1JobSpec(
                    template=client.V1PodTemplateSpec(
                        spec=client.V1PodSpec(restart_policy="Never", containers=[client.V1Container(name="c", image=IMAGE)])
                    )
                )
            ),
        ),
    ),
)
review = client.AuthorizationV1Api().create_self_subject_access_review(
    {"spec": {"resourceAttributes": {"verb": "create", "resource": "pods", "namespace": "py"}}}
)
assert review.status.allowed
request = core.create_namespaced_service_account_token("default", "py", {"spec": {"expirationSeconds": 600}})
assert request.status.token.count(".") == 2

kinds = dynamic.DynamicClient(client.ApiClient())
services = kinds.resources.get(api_version="v1", kind="Service")
made = services.create(body={"metadata": {"name": "web"}, "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}}, namespace="py")
assert made.spec.clusterIP
applied = services.server_side_apply(
    body={"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "labels": {"by": "apply"}}},
    name="web", namespace="py", field_manager="python",
)
assert applied.metadata.labels.by == "apply"
assert [s.metadata.name for s in services.get(namespace="py").items] == ["web"]
services.delete(name="web", namespace="py")
core.delete_namespace("py")
print("done")
