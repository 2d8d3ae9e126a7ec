"""What several files of tests share."""
import pytest

pytest.register_assert_rewrite("support.service")  # a plain module's asserts would say nothing but AssertionError
