package io.github.secretbroker.connect;

import java.util.Arrays;

/**
 * Converts private keys of older formats to PKCS #8 (RFC 5958), the only one that Java reads. A private
 * key in PKCS #8 contains the older format, together with the name of the algorithm.
 */
final class Pkcs8 {
  private static final int SEQUENCE = 0x30;
  private static final int INTEGER = 0x02;
  private static final int OCTET_STRING = 0x04;
  private static final int OBJECT_IDENTIFIER = 0x06;
  private static final int PARAMETERS = 0xa0; // [0] of ECPrivateKey

  private static final byte[] VERSION = {INTEGER, 1, 0};
  /** SEQUENCE {rsaEncryption 1.2.840.113549.1.1.1, NULL}. */
  private static final byte[] RSA = {
    SEQUENCE, 13, OBJECT_IDENTIFIER, 9, 0x2a, (byte) 0x86, 0x48, (byte) 0x86, (byte) 0xf7, 0x0d, 1, 1, 1, 5, 0
  };
  /** id-ecPublicKey 1.2.840.10045.2.1. */
  private static final byte[] EC = {OBJECT_IDENTIFIER, 7, 0x2a, (byte) 0x86, 0x48, (byte) 0xce, 0x3d, 2, 1};

  private Pkcs8() {}

  /** Converts an RSAPrivateKey of PKCS #1 (RFC 8017). */
  static byte[] fromPkcs1(byte[] der) {
    return wrap(RSA, der);
  }

  /** Converts an ECPrivateKey of SEC 1 (RFC 5915). Returns null if it does not contain its curve. */
  static byte[] fromSec1(byte[] der) {
    byte[] curve = curve(der);
    return curve == null ? null : wrap(element(SEQUENCE, EC, curve), der);
  }

  private static byte[] wrap(byte[] algorithm, byte[] key) {
    byte[] octets = element(OCTET_STRING, key);
    try {
      return element(SEQUENCE, VERSION, algorithm, octets);
    } finally {
      Arrays.fill(octets, (byte) 0);
    }
  }

  /** Returns one element of DER with this content. */
  private static byte[] element(int tag, byte[]... content) {
    int length = 0;
    for (byte[] part : content) {
      length += part.length;
    }
    int lengthBytes = length < 0x80 ? 0 : length < 0x100 ? 1 : length < 0x10000 ? 2 : 3; // files are at most 1 MiB
    byte[] der = new byte[2 + lengthBytes + length];
    der[0] = (byte) tag;
    der[1] = (byte) (lengthBytes == 0 ? length : 0x80 | lengthBytes);
    int at = 2;
    for (int i = lengthBytes - 1; i >= 0; i--) {
      der[at++] = (byte) (length >> 8 * i);
    }
    for (byte[] part : content) {
      System.arraycopy(part, 0, der, at, part.length);
      at += part.length;
    }
    return der;
  }

  /** Returns the object identifier in the parameters of an ECPrivateKey, or null. */
  private static byte[] curve(byte[] der) {
    int[] sequence = content(der, 0, der.length);
    if (sequence == null || tag(der, 0) != SEQUENCE) {
      return null;
    }
    for (int at = sequence[0]; at < sequence[1]; ) {
      int[] content = content(der, at, sequence[1]);
      if (content == null) {
        return null;
      }
      if (tag(der, at) == PARAMETERS) {
        boolean named = content[0] < content[1] && tag(der, content[0]) == OBJECT_IDENTIFIER;
        return named ? Arrays.copyOfRange(der, content[0], content[1]) : null;
      }
      at = content[1];
    }
    return null;
  }

  private static int tag(byte[] der, int at) {
    return der[at] & 0xff;
  }

  /** Returns the begin and end of the content of the element at that position, or null if it is faulty. */
  private static int[] content(byte[] der, int at, int end) {
    if (end - at < 2) {
      return null;
    }
    int length = der[at + 1] & 0xff;
    int begin = at + 2;
    if (length >= 0x80) {
      int lengthBytes = length & 0x7f;
      if (lengthBytes < 1 || lengthBytes > 3 || end - begin < lengthBytes) {
        return null;
      }
      length = 0;
      for (int i = 0; i < lengthBytes; i++) {
        length = length << 8 | der[begin++] & 0xff;
      }
    }
    return end - begin < length ? null : new int[] {begin, begin + length};
  }
}
