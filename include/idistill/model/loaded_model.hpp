#pragma once
// The model as every rank sees it: one copy of the weights per node.

#include <memory>
#include <string>

#include "idistill/comm/mpi.hpp"
#include "idistill/model/decoder.hpp"
#include "idistill/model/place.hpp"

namespace idistill::model {

struct LoadedModel {
    std::unique_ptr<comm::NodeSharedMemory> memory;  ///< of the weights; null where they are on a device or in 16 bits
    std::string sha256;                      ///< of all tensors' names and bytes; empty where no weights were read
    std::unique_ptr<const Decoder> decoder;  ///< stays where it is
    std::shared_ptr<void> reserved = {};     ///< addresses of weights that were not read
};

/// Collective. On a CPU in fp32 each node's first rank reads, into memory that its ranks share; elsewhere every rank
/// reads tensor by tensor to where it computes, and the first one hashes. Throws as read_weights, and Error(bad_input)
/// that names `option` where the nodes have different weights.
LoadedModel load_model(comm::Communicator& comm, const std::string& directory, const ModelConfig& config,
                       const Place& place, const std::string& option = "--model");

/// For runs that never look at a weight: reading one ends the program. Takes no memory.
LoadedModel model_without_weights(const ModelConfig& config);

/// Collective. The writers' fingerprints (`mine`; empty on ranks that only look) of `what`, which must agree: each node
/// reads its own files. Throws Error(bad_input) that names `option` and the nodes that differ.
std::string agreed_fingerprint(comm::Communicator& comm, const std::string& option, const std::string& what,
                               const std::string& mine);

/// What the weights alone do not say of the function that the model computes.
std::string geometry(const ModelConfig& config);

/// The same with the shapes of the weights: equal for models that differ in their weights alone.
std::string shape(const ModelConfig& config);

}  // namespace idistill::model
