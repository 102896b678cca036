//! Certificate authorities and certificates. Of a LiveCluster's authority is the certificate of its
//! media pods: who holds one is a media node of this cluster. The authority's key never leaves its
//! Secret.

use k8s_openapi::jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use thiserror::Error;
use x509_parser::pem::Pem;
use x509_parser::time::ASN1Time;

const DAY_SECONDS: i64 = 24 * 3600;
/// Life of an authority: a change restarts every pod, so it is rare.
const AUTHORITY_SECONDS: i64 = 3650 * DAY_SECONDS;
/// Life of a certificate.
const CERTIFICATE_SECONDS: i64 = 365 * DAY_SECONDS;
/// Validity begins earlier than now: clocks of Kubernetes nodes differ.
const SKEW_SECONDS: i64 = 3600;

/// Why no certificate could be made.
#[derive(Debug, Error)]
pub enum AuthorityError {
    /// Key or certificate could not be made.
    #[error("failed to make a key or certificate")]
    Generate(#[from] rcgen::Error),
    /// The time cannot be written in a certificate.
    #[error("the time {0} is outside of what a certificate can say")]
    Time(i64),
}

/// A certificate with its private key, both PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct Certified {
    /// The certificate.
    pub certificate: String,
    /// The private key (PKCS #8).
    pub key: String,
}

/// Makes a new authority of this name.
pub fn new_authority(name: &str, now: Timestamp) -> Result<Certified, AuthorityError> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(Vec::<String>::new())?;
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    set_validity(&mut params, now, AUTHORITY_SECONDS)?;
    let certificate = params.self_signed(&key)?;
    Ok(Certified { certificate: certificate.pem(), key: key.serialize_pem() })
}

/// Makes a new certificate for a DNS name.
pub fn new_certificate(
    authority: &Certified,
    name: &str,
    now: Timestamp,
) -> Result<Certified, AuthorityError> {
    let issuer =
        Issuer::from_ca_cert_pem(&authority.certificate, KeyPair::from_pem(&authority.key)?)?;
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(vec![name.to_owned()])?;
    params.distinguished_name.push(DnType::CommonName, name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    set_validity(&mut params, now, CERTIFICATE_SECONDS)?;
    let certificate = params.signed_by(&key, &issuer)?;
    Ok(Certified { certificate: certificate.pem(), key: key.serialize_pem() })
}

fn set_validity(
    params: &mut CertificateParams,
    now: Timestamp,
    seconds: i64,
) -> Result<(), AuthorityError> {
    let at = |second: i64| {
        let time = ASN1Time::from_timestamp(second).map_err(|_| AuthorityError::Time(second))?;
        Ok::<_, AuthorityError>(time.to_datetime())
    };
    params.not_before = at(now.as_second() - SKEW_SECONDS)?;
    params.not_after = at(now.as_second() + seconds)?;
    Ok(())
}

/// Whether a certificate can be used for at least a third of its life more.
#[must_use]
pub fn is_fresh(certified: &Certified, now: Timestamp) -> bool {
    let Some((from, to)) = validity(&certified.certificate) else { return false };
    KeyPair::from_pem(&certified.key).is_ok()
        && from <= now.as_second()
        && to - now.as_second() > (to - from) / 3
}

/// Whether a certificate was signed by this authority for a DNS name.
#[must_use]
pub fn is_issued_by(certificate: &str, authority: &str, name: &str) -> bool {
    let (Some(leaf), Some(root)) = (first_pem(certificate), first_pem(authority)) else {
        return false;
    };
    let (Ok(leaf), Ok(root)) = (leaf.parse_x509(), root.parse_x509()) else { return false };
    let named = leaf.subject_alternative_name().ok().flatten().is_some_and(|names| {
        names.value.general_names.iter().any(|found| {
            matches!(found, x509_parser::extensions::GeneralName::DNSName(found) if *found == name)
        })
    });
    // The key identifier names the authority's key; a forged one helps nobody who cannot write
    // our Secrets.
    let issuer_key =
        leaf.extensions().iter().find_map(|extension| match extension.parsed_extension() {
            x509_parser::extensions::ParsedExtension::AuthorityKeyIdentifier(id) => {
                id.key_identifier.as_ref().map(|id| id.0.to_vec())
            }
            _ => None,
        });
    let root_key =
        root.extensions().iter().find_map(|extension| match extension.parsed_extension() {
            x509_parser::extensions::ParsedExtension::SubjectKeyIdentifier(id) => {
                Some(id.0.to_vec())
            }
            _ => None,
        });
    named && leaf.issuer() == root.subject() && issuer_key.is_some() && issuer_key == root_key
}

/// How long ago a certificate was made; `None` when it cannot be read.
#[must_use]
pub fn age_seconds(certificate: &str, now: Timestamp) -> Option<i64> {
    let (from, _) = validity(certificate)?;
    Some(now.as_second() - from - SKEW_SECONDS)
}

fn validity(certificate: &str) -> Option<(i64, i64)> {
    let pem = first_pem(certificate)?;
    let certificate = pem.parse_x509().ok()?;
    let validity = certificate.validity();
    Some((validity.not_before.timestamp(), validity.not_after.timestamp()))
}

fn first_pem(text: &str) -> Option<Pem> {
    Pem::iter_from_buffer(text.as_bytes()).next()?.ok()
}

#[cfg(test)]
mod tests {
    use contract::sfu_config::PEER_NAME;

    use super::*;

    const DAY: i64 = DAY_SECONDS;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    #[test]
    fn a_certificate_is_of_its_authority_only() {
        let ours = new_authority("a", at(0)).unwrap();
        let other = new_authority("a", at(0)).unwrap();
        let certificate = new_certificate(&ours, PEER_NAME, at(0)).unwrap();
        assert!(is_issued_by(&certificate.certificate, &ours.certificate, PEER_NAME));
        assert!(!is_issued_by(&certificate.certificate, &other.certificate, PEER_NAME));
        assert!(!is_issued_by(&certificate.certificate, &ours.certificate, "another"));
        assert!(!is_issued_by("nonsense", &ours.certificate, PEER_NAME));
    }

    #[test]
    fn a_certificate_is_renewed_after_two_thirds_of_its_life() {
        let authority = new_authority("a", at(0)).unwrap();
        let certificate = new_certificate(&authority, PEER_NAME, at(0)).unwrap();
        for (day, fresh) in [(0, true), (243, true), (244, false), (400, false), (-1, false)] {
            assert_eq!(is_fresh(&certificate, at(day * DAY)), fresh, "day {day}");
        }
        assert!(is_fresh(&authority, at(365 * DAY)));
    }

    #[test]
    fn the_age_counts_from_when_it_was_made() {
        let authority = new_authority("a", at(0)).unwrap();
        assert_eq!(age_seconds(&authority.certificate, at(100)), Some(100));
        assert_eq!(age_seconds("nonsense", at(100)), None);
    }

    #[test]
    fn a_broken_key_is_not_fresh() {
        let mut authority = new_authority("a", at(0)).unwrap();
        authority.key = "nonsense".to_owned();
        assert!(!is_fresh(&authority, at(0)));
    }
}
