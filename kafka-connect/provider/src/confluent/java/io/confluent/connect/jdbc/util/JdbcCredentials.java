package io.confluent.connect.jdbc.util;

/**
 * A copy of the JDBC connectors' interface, so that this module compiles without them. The jar does
 * not contain it, because each connector provides the original.
 */
public interface JdbcCredentials {
  /** Returns the user name. */
  String getUsername();

  /** Returns the password. */
  String getPassword();
}
