//! What policies that were brought along say of other services. A caller here came by no VPC and belongs to no
//! organisation, and nobody asks for an object of S3: as in AWS such a key is one that the request does not have, and
//! such an action one that nobody asks for. A guardrail or an identity policy may speak of them, with a warning each.

use super::action;
use super::pattern::glob;

/// Prefixes with a meaning here, or one to come.
const OURS: [&str; 4] = ["secretsmanager", "kms", "wardfs", "aws"];

/// Services of AWS that are one edit from one of ours and are none the less meant, as in AWS's own example of a
/// guardrail about regions.
const NO_SLIPS: [&str; 4] = ["aps", "dms", "fms", "sms"];

/// What a prefix is, of an action or a key, without its colon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Service {
    /// One whose names are all known here.
    Ours,
    /// The service of keys, which wardfs has not yet.
    Kms,
    /// One edit from this one.
    Misspelt(&'static str),
    /// Another, or an identity provider.
    Other,
    /// None: it cannot be a prefix.
    None,
}

/// What a prefix is; it counts in any case.
pub(super) fn service(prefix: &str) -> Service {
    let lower = prefix.to_ascii_lowercase();
    let near = |ours: &&&str| strsim::osa_distance(&lower, ours) == 1;
    let shaped = prefix
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b"-._/".contains(&b));
    match OURS.iter().find(|ours| **ours == lower) {
        Some(&"kms") => Service::Kms,
        Some(_) => Service::Ours,
        None if prefix.is_empty() || !shaped => Service::None,
        // They stand before an operator, never before a key.
        None if ["forallvalues", "foranyvalue"].contains(&lower.as_str()) => Service::None,
        None if NO_SLIPS.contains(&lower.as_str()) => Service::Other,
        None => match OURS.iter().find(near) {
            Some(ours) => Service::Misspelt(ours),
            None => Service::Other,
        },
    }
}

/// What an action of a document, which may have wildcards, is here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spoken {
    /// One of ours, or none at all.
    Here,
    /// Of keys.
    Kms,
    /// Of another service.
    Other,
}

/// What an action is here. One of keys that is nearly the name of another is none.
pub(super) fn spoken(text: &str) -> Spoken {
    let Some((prefix, name)) = text.split_once(':') else {
        return Spoken::Here;
    };
    let shaped = !name.is_empty()
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"*?".contains(&b));
    match service_of(prefix, name) {
        Service::Kms if shaped && (of_kms(name) || nearest_of_kms(name).is_none()) => Spoken::Kms,
        Service::Other if shaped && !prefix.contains(['.', '_', '/']) => Spoken::Other,
        _ => Spoken::Here,
    }
}

/// As [`service`], for an action: `dms:Decrypt` is a slip after all.
fn service_of(prefix: &str, name: &str) -> Service {
    let mut keys = KMS.iter().filter(|k| !k.ends_with("agResource"));
    match service(prefix) {
        Service::Other if is_near_kms(prefix) && keys.any(|k| k.eq_ignore_ascii_case(name)) => {
            Service::Misspelt("kms")
        }
        other => other,
    }
}

fn is_near_kms(prefix: &str) -> bool {
    strsim::osa_distance(&prefix.to_ascii_lowercase(), "kms") == 1
}

fn of_kms(pattern: &str) -> bool {
    let pattern = pattern.to_ascii_lowercase();
    let mut names = KMS.iter();
    names.any(|name| glob(&pattern, &name.to_ascii_lowercase()))
}

/// The action of keys that `name` nearly is.
fn nearest_of_kms(name: &str) -> Option<String> {
    Some(format!("kms:{}", super::diagnostic::nearest(name, KMS)?))
}

/// The prefix that an action's is nearly, if it is none itself.
pub(super) fn nearly(text: &str) -> Option<&'static str> {
    let (prefix, name) = text.split_once(':')?;
    match service_of(prefix, name) {
        Service::Misspelt(ours) => Some(ours),
        _ => None,
    }
}

/// What was probably meant by an action that is none; `other`: whether actions of other services may stand there.
pub(super) fn meant(text: &str, other: bool) -> Option<String> {
    let Some((prefix, name)) = text.split_once(':') else {
        return action::nearest(text);
    };
    let ours = match service_of(prefix, name) {
        Service::Misspelt(ours) => ours,
        Service::Kms => "kms",
        _ => return None,
    };
    match ours {
        "kms" if !other => None,
        "kms" if of_kms(name) => Some(format!("kms:{name}")),
        "kms" => nearest_of_kms(name),
        // No action begins so.
        "aws" => action::nearest(name),
        ours => match super::parse::matching(&format!("{ours}:{name}")).next() {
            Some(_) => Some(format!("{ours}:{name}")),
            None => action::nearest(name),
        },
    }
}

/// Whether a key's name is one of another service or an identity provider, or of keys.
pub(super) fn is_key(name: &str) -> bool {
    let Some((prefix, rest)) = name.split_once(':') else {
        return false;
    };
    let shaped = !rest.is_empty() && !rest.chars().any(|c| c.is_whitespace() || c.is_control());
    shaped && matches!(service(prefix), Service::Other | Service::Kms)
}

/// Whether a key is one of AWS's that are known here by name, in any policy.
pub(super) fn is_known(key: &str) -> bool {
    KEYS.iter().any(|k| k.eq_ignore_ascii_case(key))
}

/// The key with its prefix as it was probably meant.
pub(super) fn respelt(name: &str) -> Option<String> {
    let (prefix, rest) = name.split_once(':')?;
    match service(prefix) {
        Service::Misspelt(ours) => Some(format!("{ours}:{rest}")),
        _ => None,
    }
}

/// Whether an ARN (pattern) is of a resource of another service; `secretsmanager` misspelt is none.
pub(super) fn is_resource(arn: &str) -> bool {
    let parts: Vec<&str> = arn.splitn(6, ':').collect();
    let &["arn", _, service, _, _, rest] = parts.as_slice() else {
        return false;
    };
    let misspelt = strsim::osa_distance(&service.to_ascii_lowercase(), "secretsmanager") == 1;
    !service.is_empty() && !rest.is_empty() && !misspelt && !glob(service, "secretsmanager")
}

/// The actions of AWS KMS, from its permissions reference.
const KMS: [&str; 56] = [
    "CancelKeyDeletion",
    "ConnectCustomKeyStore",
    "CreateAlias",
    "CreateCustomKeyStore",
    "CreateGrant",
    "CreateKey",
    "Decrypt",
    "DeleteAlias",
    "DeleteCustomKeyStore",
    "DeleteImportedKeyMaterial",
    "DeriveSharedSecret",
    "DescribeCustomKeyStores",
    "DescribeKey",
    "DisableKey",
    "DisableKeyRotation",
    "DisconnectCustomKeyStore",
    "EnableKey",
    "EnableKeyRotation",
    "Encrypt",
    "GenerateDataKey",
    "GenerateDataKeyPair",
    "GenerateDataKeyPairWithoutPlaintext",
    "GenerateDataKeyWithoutPlaintext",
    "GenerateMac",
    "GenerateRandom",
    "GetKeyLastUsage",
    "GetKeyPolicy",
    "GetKeyRotationStatus",
    "GetParametersForImport",
    "GetPublicKey",
    "ImportKeyMaterial",
    "ListAliases",
    "ListGrants",
    "ListKeyPolicies",
    "ListKeyRotations",
    "ListKeys",
    "ListResourceTags",
    "ListRetirableGrants",
    "PutKeyPolicy",
    "ReEncryptFrom",
    "ReEncryptTo",
    "ReplicateKey",
    "RetireGrant",
    "RevokeGrant",
    "RotateKeyOnDemand",
    "ScheduleKeyDeletion",
    "Sign",
    "SynchronizeMultiRegionKey",
    "TagResource",
    "UntagResource",
    "UpdateAlias",
    "UpdateCustomKeyStore",
    "UpdateKeyDescription",
    "UpdatePrimaryRegion",
    "Verify",
    "VerifyMac",
];

/// AWS's condition keys that mean nothing on one host, as AWS spells them; names count in any case. From AWS's list of
/// global condition context keys and the service authorization reference of Secrets Manager.
pub(super) const KEYS: [&str; 57] = [
    "aws:CalledVia",
    "aws:CalledViaFirst",
    "aws:CalledViaLast",
    "aws:Ec2InstanceSourcePrivateIPv4",
    "aws:Ec2InstanceSourceVpc",
    "aws:FederatedProvider",
    "aws:MultiFactorAuthAge",
    "aws:MultiFactorAuthPresent",
    "aws:PrincipalAccount",
    "aws:PrincipalIsAWSService",
    "aws:PrincipalOrgID",
    "aws:PrincipalOrgPaths",
    "aws:PrincipalServiceName",
    "aws:PrincipalServiceNamesList",
    "aws:PrincipalType",
    "aws:referer",
    "aws:RequestedRegion",
    "aws:ResourceAccount",
    "aws:ResourceOrgID",
    "aws:ResourceOrgPaths",
    "aws:SecureTransport",
    "aws:SourceAccount",
    "aws:SourceArn",
    "aws:SourceIdentity",
    "aws:SourceIp",
    "aws:SourceOrgID",
    "aws:SourceOrgPaths",
    "aws:SourceVpc",
    "aws:SourceVpcArn",
    "aws:SourceVpce",
    "aws:TokenIssueTime",
    "aws:UserAgent",
    "aws:userid",
    "aws:ViaAWSService",
    "aws:VpceAccount",
    "aws:VpceOrgID",
    "aws:VpceOrgPaths",
    "aws:VpcSourceIp",
    "ec2:RoleDelivery",
    "ec2:SourceInstanceArn",
    "glue:RoleAssumedBy",
    "lambda:SourceFunctionArn",
    "ssm:SourceInstanceArn",
    "identitystore:UserId",
    "secretsmanager:AddReplicaRegions",
    "secretsmanager:BlockPublicPolicy",
    "secretsmanager:Description",
    "secretsmanager:ForceDeleteWithoutRecovery",
    "secretsmanager:ForceOverwriteReplicaSecret",
    "secretsmanager:KmsKeyArn",
    "secretsmanager:KmsKeyId",
    "secretsmanager:ModifyRotationRules",
    "secretsmanager:RecoveryWindowInDays",
    "secretsmanager:RotateImmediately",
    "secretsmanager:RotationLambdaARN",
    "secretsmanager:resource/AllowRotationLambdaArn",
    "secretsmanager:SecretPrimaryRegion",
];
