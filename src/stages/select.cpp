// Stage 6, select: all ranks on their rows of influence; the selection is the same on every rank.

#include <fmt/format.h>

#include "idistill/comm/say.hpp"
#include "run.hpp"

namespace idistill::stages {

selection::Selection select(comm::Communicator& comm, const selection::Selector& selector, const RatedPool& pool) {
    auto selection = selector.choose(comm, pool.influence, pool.facts, selector.request(pool.facts));
    if (const auto text = selector.report(selection, pool.facts); !text.empty()) say(comm, text);
    return selection;
}

}  // namespace idistill::stages
