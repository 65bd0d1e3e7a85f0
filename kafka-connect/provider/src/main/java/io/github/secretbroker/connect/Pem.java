package io.github.secretbroker.connect;

import io.github.secretbroker.connect.TlsFiles.UnusableException;
import java.io.ByteArrayInputStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.security.GeneralSecurityException;
import java.security.KeyFactory;
import java.security.PrivateKey;
import java.security.cert.CertificateFactory;
import java.security.cert.X509Certificate;
import java.security.spec.PKCS8EncodedKeySpec;
import java.util.ArrayList;
import java.util.Base64;
import java.util.List;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/** Parses PEM files (RFC 7468). Errors never quote the content of a file. */
final class Pem {
  private static final Pattern BLOCK =
      Pattern.compile("-----BEGIN ([A-Z0-9 ]+)-----\\s*([A-Za-z0-9+/=\\s]*?)-----END \\1-----");

  private Pem() {}

  /** Returns all certificates of a file, at least one, in their order in the file. */
  static List<X509Certificate> certificates(Path file, byte[] content) throws UnusableException {
    List<X509Certificate> found = new ArrayList<>();
    try {
      CertificateFactory factory = CertificateFactory.getInstance("X.509");
      Matcher block = BLOCK.matcher(text(content));
      while (block.find()) {
        if (block.group(1).equals("CERTIFICATE")) {
          byte[] der = Base64.getMimeDecoder().decode(block.group(2));
          found.add((X509Certificate) factory.generateCertificate(new ByteArrayInputStream(der)));
        }
      }
    } catch (GeneralSecurityException | IllegalArgumentException e) {
      throw new UnusableException(file, "has a PEM block that is not a certificate");
    }
    if (found.isEmpty()) {
      throw new UnusableException(file, "has no PEM block BEGIN CERTIFICATE");
    }
    return List.copyOf(found);
  }

  /** Returns the private key of a file, in unencrypted PKCS #8. */
  static PrivateKey privateKey(Path file, byte[] content) throws UnusableException {
    Matcher block = BLOCK.matcher(text(content));
    while (block.find()) {
      String kind = block.group(1);
      if (kind.equals("PRIVATE KEY")) {
        return pkcs8(file, Base64.getMimeDecoder().decode(block.group(2)));
      }
      if (kind.equals("ENCRYPTED PRIVATE KEY")) {
        throw new UnusableException(
            file, "is encrypted; use an unencrypted key, or a PKCS12 store in " + Settings.KEYSTORE_FILE);
      }
      if (kind.endsWith(" PRIVATE KEY")) {
        throw new UnusableException(
            file, "has a key in the old format " + kind + "; convert it with openssl pkcs8 -topk8 -nocrypt");
      }
    }
    throw new UnusableException(file, "has no PEM block BEGIN PRIVATE KEY");
  }

  private static PrivateKey pkcs8(Path file, byte[] der) throws UnusableException {
    PKCS8EncodedKeySpec spec = new PKCS8EncodedKeySpec(der);
    for (String algorithm : List.of("EC", "RSA", "Ed25519", "Ed448", "RSASSA-PSS")) {
      try {
        return KeyFactory.getInstance(algorithm).generatePrivate(spec);
      } catch (GeneralSecurityException e) {
        // the key is of another algorithm
      }
    }
    throw new UnusableException(file, "has a private key that Java cannot read");
  }

  private static String text(byte[] content) {
    return new String(content, StandardCharsets.ISO_8859_1);
  }
}
