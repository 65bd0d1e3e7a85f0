package io.github.secretbroker.connect;

import java.io.IOException;
import java.math.BigInteger;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.GeneralSecurityException;
import java.security.KeyPair;
import java.security.KeyPairGenerator;
import java.security.KeyStore;
import java.security.PrivateKey;
import java.security.SecureRandom;
import java.security.cert.Certificate;
import java.security.cert.X509Certificate;
import java.time.Duration;
import java.time.Instant;
import java.util.Base64;
import java.util.Date;
import org.bouncycastle.asn1.x500.X500Name;
import org.bouncycastle.asn1.x509.BasicConstraints;
import org.bouncycastle.asn1.x509.Extension;
import org.bouncycastle.asn1.x509.GeneralName;
import org.bouncycastle.asn1.x509.GeneralNames;
import org.bouncycastle.cert.jcajce.JcaX509CertificateConverter;
import org.bouncycastle.cert.jcajce.JcaX509v3CertificateBuilder;
import org.bouncycastle.operator.OperatorCreationException;
import org.bouncycastle.operator.jcajce.JcaContentSignerBuilder;

/** A temporary CA that writes the certificates that it issues to files. */
final class TestAuthority {
  final X509Certificate certificate;
  private final PrivateKey key;

  /** A certificate with its key. */
  record Issued(X509Certificate certificate, PrivateKey key) {}

  TestAuthority(String name) {
    try {
      KeyPair pair = newKey("EC", 256);
      JcaX509v3CertificateBuilder builder =
          builder(new X500Name("CN=" + name), new X500Name("CN=" + name), pair, Duration.ofHours(1));
      builder.addExtension(Extension.basicConstraints, true, new BasicConstraints(0));
      this.key = pair.getPrivate();
      this.certificate = sign(builder, key);
    } catch (GeneralSecurityException | IOException | OperatorCreationException e) {
      throw new IllegalStateException(e);
    }
  }

  private static KeyPair newKey(String algorithm, int size) throws GeneralSecurityException {
    KeyPairGenerator generator = KeyPairGenerator.getInstance(algorithm);
    generator.initialize(size);
    return generator.generateKeyPair();
  }

  private static JcaX509v3CertificateBuilder builder(X500Name issuer, X500Name subject, KeyPair pair, Duration life) {
    Instant now = Instant.now();
    return new JcaX509v3CertificateBuilder(
        issuer, new BigInteger(64, new SecureRandom()),
        Date.from(now.minus(Duration.ofHours(2))), Date.from(now.plus(life)), subject, pair.getPublic());
  }

  private static X509Certificate sign(JcaX509v3CertificateBuilder builder, PrivateKey key)
      throws GeneralSecurityException, OperatorCreationException {
    return new JcaX509CertificateConverter()
        .getCertificate(builder.build(new JcaContentSignerBuilder("SHA256withECDSA").build(key)));
  }

  Issued server(String... dnsNames) {
    GeneralName[] names = new GeneralName[dnsNames.length];
    for (int i = 0; i < names.length; i++) {
      names[i] = new GeneralName(GeneralName.dNSName, dnsNames[i]);
    }
    return issue("CN=server", "EC", 256, Duration.ofHours(1), new GeneralNames(names));
  }

  Issued client(String id) {
    return client(id, "EC", 256, Duration.ofHours(1));
  }

  Issued client(String id, String algorithm, int size, Duration life) {
    return issue("CN=client", algorithm, size, life,
        new GeneralNames(new GeneralName(GeneralName.uniformResourceIdentifier, id)));
  }

  private Issued issue(String subject, String algorithm, int size, Duration life, GeneralNames names) {
    try {
      KeyPair pair = newKey(algorithm, size);
      JcaX509v3CertificateBuilder builder =
          builder(new X500Name(certificate.getSubjectX500Principal().getName()), new X500Name(subject), pair, life);
      builder.addExtension(Extension.subjectAlternativeName, false, names);
      return new Issued(sign(builder, key), pair.getPrivate());
    } catch (GeneralSecurityException | IOException | OperatorCreationException e) {
      throw new IllegalStateException(e);
    }
  }

  static void writePem(Path file, Certificate certificate) {
    try {
      write(file, pem("CERTIFICATE", certificate.getEncoded()));
    } catch (GeneralSecurityException e) {
      throw new IllegalStateException(e);
    }
  }

  static void writePem(Path certFile, Path keyFile, Issued issued) {
    writePem(certFile, issued.certificate());
    write(keyFile, pem("PRIVATE KEY", issued.key().getEncoded()));
  }

  void writeKeystore(Path file, Path passwordFile, Issued issued) {
    writeStore(file, passwordFile, issued);
  }

  void writeTruststore(Path file, Path passwordFile) {
    writeStore(file, passwordFile, null);
  }

  private void writeStore(Path file, Path passwordFile, Issued issued) {
    String password = "store-canary-" + file.getFileName();
    write(passwordFile, password + "\n");
    try (var out = Files.newOutputStream(file)) {
      KeyStore store = KeyStore.getInstance("PKCS12");
      store.load(null, null);
      if (issued != null) {
        store.setKeyEntry("worker", issued.key(), password.toCharArray(), new Certificate[] {issued.certificate()});
      } else {
        store.setCertificateEntry("ca", certificate);
      }
      store.store(out, password.toCharArray());
    } catch (GeneralSecurityException | IOException e) {
      throw new IllegalStateException(e);
    }
  }

  static String pem(String kind, byte[] der) {
    return "-----BEGIN " + kind + "-----\n"
        + Base64.getMimeEncoder(64, new byte[] {'\n'}).encodeToString(der)
        + "\n-----END " + kind + "-----\n";
  }

  static void write(Path file, String text) {
    try {
      Files.write(file, text.getBytes(StandardCharsets.UTF_8));
    } catch (IOException e) {
      throw new IllegalStateException(e);
    }
  }
}
