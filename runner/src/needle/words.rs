//! The word lists of the constructed model's vocabulary and of the generated texts.
//!
//! Common short English words. None of them is a marker word of the needle (`record`, `secret`, `number`, `kept`,
//! `uuid`), so that generated prose can never be mistaken for a needle, and every word starts with a sound that its
//! first letter tells, so that `a` and `an` need no exceptions.

use std::sync::LazyLock;

/// A list of distinct words, sorted.
pub type Words = LazyLock<Vec<&'static str>>;

/// Every word of every list, once.
pub static ALL: Words = LazyLock::new(|| {
    let lists: [&Words; 12] = [
        &PEOPLE,
        &ANIMALS,
        &THINGS,
        &PLACES,
        &ADJECTIVES,
        &TRANSITIVE_VERBS,
        &INTRANSITIVE_VERBS,
        &ADVERBS,
        &PREPOSITIONS,
        &DETERMINERS,
        &CONJUNCTIONS,
        &FUNCTION_WORDS,
    ];
    let mut all: Vec<_> = lists.into_iter().flat_map(|list| list.iter().copied()).collect();
    all.sort_unstable();
    all.dedup();
    all
});

/// The nouns that keys end with: people and animals, as in `brave-otter`.
pub fn key_nouns() -> impl Iterator<Item = &'static str> {
    PEOPLE.iter().chain(ANIMALS.iter()).copied()
}

/// The words that sentences open with, capitalised.
pub fn openings() -> impl Iterator<Item = String> {
    ["a", "an", "the"]
        .iter()
        .chain(DETERMINERS.iter())
        .chain(CONJUNCTIONS.iter())
        .map(|word| capitalised(word))
}

/// The word with its first letter in upper case.
pub fn capitalised(word: &str) -> String {
    let (first, rest) = word.split_at(1);
    first.to_ascii_uppercase() + rest
}

macro_rules! words {
    ($(#[$doc:meta])* $name:ident, $text:literal) => {
        $(#[$doc])*
        pub static $name: Words = LazyLock::new(|| $text.split_whitespace().collect());
    };
}

words!(
    /// Nouns for people.
    PEOPLE,
    "actor astronomer aunt baker banker baron bishop boy brother builder butcher butler captain
     carpenter chef chemist child clerk cobbler cook cousin dancer dentist doctor driver drover drummer
     duke engineer farmer father fiddler fisherman forester friend gardener gentleman girl glazier
     grandmother grandson grocer groom guard guest hermit hunter infant janitor judge king knight lady
     landlord lawyer logger maid mason merchant messenger miller miner monk mother neighbor nephew niece
     nun nurse orphan painter peddler pilgrim pilot piper plumber poet porter postman potter priest
     prince princess prophet queen ranger roofer sailor scholar scout sculptor servant shepherd sheriff
     singer sister smith soldier squire stranger student surgeon surveyor tailor teacher tenant thatcher
     tinker trader trapper traveler uncle visitor waiter weaver widow woodcutter writer youth"
);

words!(
    /// Nouns for animals.
    ANIMALS,
    "badger bear beaver bull calf camel cat cow crab crane crow deer dog dolphin donkey dove duck eagle
     eel elephant elk falcon fox frog giraffe goat goose hare hawk hedgehog hen heron herring hog horse
     hound kitten lamb lark leopard lion lizard lobster magpie monkey moose mouse mule newt otter owl ox
     panther parrot pig pigeon pony puppy rabbit ram rat raven robin rooster salmon seal shark sheep
     snake sparrow squirrel stag stork swallow swan tiger toad trout turtle whale wolf zebra"
);

words!(
    /// Nouns for things; with the adjectives they also make the keys of needles.
    THINGS,
    "acorn almond anchor anvil apple apron arch armor arrow axe axle bag ballad banner barley barrel
     basket battery beam bean bell bellows belt bench bicycle biscuit blanket blouse boat book boot
     bottle bow bowl box bracelet bread brick bridle broth brush bucket buckle butter button cabbage
     cable cake candle cane canoe canvas carpet carriage carrot cart chair chart cheese cherry chest
     chimney chisel cider clay cloak clock coat coffee coin comb compass cork couch crank crate crown
     cup cupboard curtain dagger diary dice doll door drawer dress drum easel engine envelope feather
     fence ferry fiddle fig flag flour flute fork furnace gate gem ginger glove grape hammer harp hat
     hatchet hearth helmet hoe honey hook horn hose ink jacket jar jug kettle kite knife lace ladder
     ladle lamp lantern lemon lens letter lettuce lever lid loaf locket magnet map marble mast mat match
     medal melon milk mirror mitten mug mushroom nail necklace net novel oar olive onion orange organ
     oven paddle pan pea peach pear pebble pen pencil pepper piano pie pillow pin pipe piston plank
     plate plow plum poem portrait pot potato pulley pump puppet purse puzzle quilt raft rake ribbon
     ring roof rope rose rudder rug saddle sail salt sandal satchel saw scarf screw scythe shelf shell
     shield ship shirt shoe shovel sickle silk skirt sled slipper sock soup spade spear spoon spur stair
     stamp statue stew stone stool stove straw string sugar suitcase sword table tea telescope thimble
     thread ticket tile torch towel toy trumpet trunk turnip umbrella valve vase vest vinegar wagon
     wallet walnut watch wax wheel whip whistle window wine wire wrench yarn zipper"
);

words!(
    /// Nouns for places.
    PLACES,
    "abbey airport alley attic avenue bakery balcony bank barn bay beach bog brewery bridge brook cabin
     canal canyon cape castle cave cavern cellar chapel church city cliff clinic college corner cottage
     court courtyard crater creek crossing dairy depot desert dock dune factory farm field forest forge
     fortress fountain gallery garden glacier gorge graveyard grove gulf hallway hamlet harbor heath
     hedge hill hospital hostel hotel house hut inn island jungle kitchen lagoon lake lane lawn library
     lighthouse manor mansion market marsh meadow mill mine monastery moor mountain museum oasis ocean
     orchard palace pantry park parlor pasture path peak pier plain plaza pond porch port prairie prison
     quarry ravine reef ridge river road school sea shed shop shore shrine slope square stable station
     store stream street suburb summit swamp tavern temple terrace theater tower town trail tunnel
     valley village vineyard volcano warehouse waterfall well wharf wood workshop yard"
);

words!(
    /// Adjectives.
    ADJECTIVES,
    "able active aged agile airy alert amber ample ancient angry anxious ashen austere autumn awkward
     azure bald bare bashful bitter black bland blank blind blond blue blunt bold bony brave brief
     bright brisk brittle broad broken bronze brown bulky busy calm candid careful careless caring
     cautious charming cheap cheerful chilly civil clean clear clever close cloudy clumsy coarse cold
     comic common cool copper costly crafty cranky crimson crisp crooked crude cruel curious curly
     curved daily damp dark dear decent deep delicate dense dim dirty distant dizzy dormant drab dreary
     droll drowsy dry dull dusty eager early earnest easy elder elegant empty endless even exact faint
     fair faithful false famous fancy fast fatal feeble fertile fierce fine firm flat fluffy foggy fond
     foolish foreign formal frail frank free fresh frosty frozen full funny furry fuzzy gentle giant
     gifted glad gleaming gloomy glossy golden good graceful grand grateful grave gray great greedy
     green grim gruff hairy handsome happy hard hardy harsh hasty hazy heavy helpful hollow holy homely
     hot huge humble hungry icy idle ivory jagged jolly joyful keen kind lame large late lazy lean light
     likely lively lone long loose lost loud lovely low loyal lucky mellow merry mild misty modern
     modest moist muddy narrow nasty native neat new nimble noble noisy odd old open outer pale patient
     perfect plain pleasant plump polite poor pretty prompt proud purple quaint quick quiet rainy rapid
     rare raw ready red rich ripe rosy rough round royal rude rugged rusty sad safe salty scarlet
     serious shaded shallow sharp shiny short shy silent silly silver simple sleek sleepy slender slim
     slow small smart smooth snowy sober soft solemn solid sour spare stale steady steep stern stiff
     stormy stout strange strict strong stubborn sturdy sunny sweet swift tall tame tender thick thin
     thirsty tidy tiny tired tough vain vast violet warm wary weak weary wet white wicked wide wild wise
     wooden worn worthy yellow young zealous"
);

words!(
    /// Transitive verbs, past tense.
    TRANSITIVE_VERBS,
    "adjusted admired adored altered answered approached arranged asked avoided bathed bent blamed
     blessed blocked bothered bought bound brought brushed built buried called carried carved caught
     chased checked cheered chose cleaned closed collected comforted copied counted covered cured cursed
     damaged decorated delivered described discovered displayed divided dragged drew dropped dusted
     earned embraced emptied enjoyed envied escorted examined expected feared fed feigned fetched filled
     finished fixed flipped folded followed forgave forgot found freed gathered gave greeted guarded
     guided handed hated heard heated helped hid hired hoisted honored hugged hunted ignored imagined
     inspected invited joined judged kicked knew lifted liked loaded locked loved lowered marked
     measured mended missed mixed moved noticed nursed obeyed offered opened ordered owned packed paid
     painted passed patched picked pitied placed planted played pleased poked polished praised pressed
     promised pulled pushed raised reached remembered removed rented repaired replaced rescued returned
     rolled rubbed ruined saddled saved scolded sealed searched seized served sewed shaped shared shook
     showed signed sketched sold sorted spoiled spotted stacked stirred stole stored studied swept
     tasted tested thanked threw tied tipped took tore touched traced traded trained trusted turned used
     valued visited wanted warmed warned washed watched weighed wiped won wrapped"
);

words!(
    /// Intransitive verbs, past tense; those of movement and rest that a place can follow.
    INTRANSITIVE_VERBS,
    "appeared arrived awoke bloomed blushed bowed camped cheered climbed coughed crawled cried crouched
     danced dawdled departed dined dozed dreamed drifted fainted fell fished fled floated frowned
     galloped gazed giggled glided glowed grew grinned grumbled halted hesitated hopped hovered hummed
     hurried jogged jumped knelt landed laughed leaned leaped limped lingered listened loitered lounged
     marched moaned mumbled napped nodded paced paused perched played pondered prayed quarreled raced
     rambled ran reappeared relaxed rested retired roamed rode rose rushed sang sat screamed shivered
     shouted shrugged sighed skated skipped slept slid slipped smiled sneezed sobbed spoke sprinted
     squatted staggered stayed stepped stood stopped strayed strolled struggled stumbled swam swayed
     talked tarried toiled travelled trembled trotted trudged vanished waited wandered wept whispered
     woke worked yawned"
);

words!(
    /// Adverbs of manner.
    ADVERBS,
    "again alone bravely calmly gently gladly happily quickly quietly sadly slowly softly suddenly
     together twice"
);

words!(
    /// Prepositions that lead to a place.
    PREPOSITIONS,
    "across along at behind beside beyond by from in inside near outside past through toward"
);

words!(
    /// Determiners of a singular noun, besides the articles.
    DETERMINERS,
    "another every her his my our that their this your"
);

words!(
    /// Conjunctions that open a subordinate clause.
    CONJUNCTIONS,
    "after although because before since until when while"
);

words!(
    /// The other words of the grammar.
    FUNCTION_WORDS,
    "a an and but so the was who with"
);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::needle::wording::{MARKERS, NOISE};

    #[test]
    fn lists_are_sorted_distinct_and_lower_case() {
        for list in [&PEOPLE, &ANIMALS, &THINGS, &PLACES, &ADJECTIVES, &TRANSITIVE_VERBS, &INTRANSITIVE_VERBS]
        {
            assert!(list.is_sorted_by(|a, b| a < b), "{list:?}");
            assert!(list.iter().all(|word| word.bytes().all(|b| b.is_ascii_lowercase())));
        }
    }

    #[test]
    fn there_are_enough_of_them() {
        assert!(PEOPLE.len() + ANIMALS.len() + THINGS.len() + PLACES.len() >= 600);
        assert!(ADJECTIVES.len() >= 300);
        assert!(TRANSITIVE_VERBS.len() + INTRANSITIVE_VERBS.len() >= 300);
    }

    #[test]
    fn none_is_a_marker_of_the_needle() {
        let noise = NOISE.iter().flat_map(|sentence| sentence.trim_end_matches('.').split(' '));
        for word in ALL.iter().copied().chain(noise) {
            assert!(!MARKERS.contains(&word.to_lowercase().as_str()), "{word}");
        }
    }
}
