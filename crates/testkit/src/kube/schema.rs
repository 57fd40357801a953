//! The fields of the kinds that are served, for `fieldValidation`: what the server does not know, it names.

use super::kind::Kind;
use serde_json::Value;

/// Type to its fields: `name` for any value, `name:Type` for an object or a list of objects of that type.
const TYPES: [(&str, &str); 22] = [
    (
        "Meta",
        "name generateName namespace labels annotations ownerReferences:Owner finalizers uid resourceVersion generation \
         creationTimestamp deletionTimestamp deletionGracePeriodSeconds managedFields selfLink",
    ),
    ("Owner", "apiVersion kind name uid controller blockOwnerDeletion"),
    ("Job", "apiVersion kind metadata:Meta spec:JobSpec status"),
    (
        "JobSpec",
        "parallelism completions activeDeadlineSeconds podFailurePolicy successPolicy backoffLimit backoffLimitPerIndex \
         maxFailedIndexes selector manualSelector template:PodTemplate ttlSecondsAfterFinished completionMode suspend \
         podReplacementPolicy managedBy",
    ),
    ("PodTemplate", "metadata:Meta spec:PodSpec"),
    ("Pod", "apiVersion kind metadata:Meta spec:PodSpec status"),
    (
        "PodSpec",
        "volumes:Volume initContainers:Container containers:Container ephemeralContainers restartPolicy \
         terminationGracePeriodSeconds activeDeadlineSeconds dnsPolicy nodeSelector serviceAccountName serviceAccount \
         automountServiceAccountToken nodeName hostNetwork hostPID hostIPC shareProcessNamespace \
         securityContext:PodSecurity imagePullSecrets hostname subdomain affinity schedulerName tolerations:Toleration \
         hostAliases:HostAlias priorityClassName priority dnsConfig readinessGates runtimeClassName enableServiceLinks \
         preemptionPolicy overhead topologySpreadConstraints setHostnameAsFQDN os hostUsers schedulingGates \
         resourceClaims resources hostnameOverride",
    ),
    ("HostAlias", "ip hostnames"),
    ("Toleration", "key operator value effect tolerationSeconds"),
    (
        "PodSecurity",
        "seLinuxOptions windowsOptions runAsUser runAsGroup runAsNonRoot supplementalGroups supplementalGroupsPolicy \
         fsGroup sysctls fsGroupChangePolicy seccompProfile:Profile appArmorProfile seLinuxChangePolicy",
    ),
    ("Profile", "type localhostProfile"),
    (
        "Container",
        "name image command args workingDir ports envFrom env:Env resources:Resources resizePolicy restartPolicy \
         restartPolicyRules volumeMounts:Mount volumeDevices livenessProbe readinessProbe startupProbe lifecycle \
         terminationMessagePath terminationMessagePolicy imagePullPolicy securityContext:Security stdin stdinOnce tty",
    ),
    ("Env", "name value valueFrom"),
    ("Resources", "limits requests claims"),
    (
        "Mount",
        "name readOnly recursiveReadOnly mountPath subPath mountPropagation subPathExpr",
    ),
    (
        "Security",
        "capabilities:Capabilities privileged seLinuxOptions windowsOptions runAsUser runAsGroup runAsNonRoot \
         readOnlyRootFilesystem allowPrivilegeEscalation procMount seccompProfile:Profile appArmorProfile",
    ),
    ("Capabilities", "add drop"),
    (
        "Volume",
        "name hostPath emptyDir:EmptyDir secret:SecretVolume configMap:ConfigMapVolume persistentVolumeClaim nfs projected \
         downwardAPI csi ephemeral image",
    ),
    ("EmptyDir", "medium sizeLimit"),
    ("SecretVolume", "secretName items defaultMode optional"),
    ("ConfigMapVolume", "name items defaultMode optional"),
    (
        "Plain",
        "apiVersion kind metadata:Meta data stringData binaryData type immutable spec status",
    ),
];

/// Paths of all fields that are not known, as the decoder names them.
pub(super) fn unknown_fields(kind: Kind, object: &Value) -> Vec<String> {
    let root = match kind {
        Kind::Job => "Job",
        Kind::Pod => "Pod",
        Kind::Secret | Kind::ConfigMap | Kind::Quota | Kind::Event => "Plain",
    };
    let mut found = Vec::new();
    if kind != Kind::Event {
        look(root, object, "", &mut found);
    }
    found
}

fn look(kind: &str, value: &Value, path: &str, found: &mut Vec<String>) {
    if let Some(list) = value.as_array() {
        for (index, one) in list.iter().enumerate() {
            look(kind, one, &format!("{path}[{index}]"), found);
        }
        return;
    }
    let Some((_, fields)) = TYPES.iter().find(|(name, _)| *name == kind) else {
        return;
    };
    for (name, inner) in value.as_object().into_iter().flatten() {
        let place = if path.is_empty() {
            name.clone()
        } else {
            format!("{path}.{name}")
        };
        let mut known = fields.split_whitespace();
        let field = known.find(|field| field.split(':').next() == Some(name));
        match field.and_then(|field| field.split_once(':')) {
            Some((_, inner_kind)) => look(inner_kind, inner, &place, found),
            None if field.is_none() => found.push(place),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::unknown_fields;
    use crate::kube::Kind;
    use serde_json::json;

    #[test]
    fn fields_that_do_not_exist_are_named_with_their_path() {
        let job = json!({"metadata": {"name": "a", "x": 1}, "spec": {"template": {"spec": {
            "containers": [{"name": "t", "securityContext": {"readOnlyRootFileSystem": true}}],
        }}}});
        assert_eq!(
            unknown_fields(Kind::Job, &job),
            [
                "metadata.x",
                "spec.template.spec.containers[0].securityContext.readOnlyRootFileSystem"
            ]
        );
    }
}
