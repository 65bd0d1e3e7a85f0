package io.confluent.connect.jdbc.util;

/**
 * A copy of the JDBC connectors' interface, so that this module compiles without them. The jar does
 * not contain it, because each connector provides the original.
 */
public interface JdbcCredentialsProvider {
  /** Returns the credentials for the next login. */
  JdbcCredentials getJdbcCredentials();

  /** Requests newer credentials for the next login. */
  default void refresh() {}
}
