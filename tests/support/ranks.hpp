#pragma once
// What tests under mpirun share: the communicator that tests/ranks/main.cpp makes once.

#include "idistill/comm/communicator.hpp"

namespace idistill::test {

comm::Communicator& world();

}  // namespace idistill::test
