#pragma once
// What is said to the user, on standard error.

#include <string>

namespace idistill {

/// Names this process in what it says: rank 0 speaks for all and is not named.
void name_rank(int rank);

/// A line to the user.
void say(const std::string& text);

}  // namespace idistill
